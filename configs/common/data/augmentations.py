"""Augmentations to choose from, as LazyConfig pieces for `dataloader.train.mapper.augmentations`.

from ..common.data.augmentations import color, flip, rotation
dataloader.train.mapper.augmentations = [*dataloader.train.mapper.augmentations, rotation, *color]
"""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from mrcnn_plugin.data import Albumentations, CopyPasteMapper


def resize(short_edges, max_size=1333):
    """The shorter side to one of `short_edges` pixels, unless the longer one exceeds `max_size`."""
    return L(T.ResizeShortestEdge)(short_edge_length=short_edges, max_size=max_size, sample_style="choice")


def scale_jitter(size, min_scale=0.1, max_scale=2.0):
    """Scaled by a random factor of what fits `size` x `size`, then cropped or padded to it; two steps.

    The mapper needs `recompute_boxes=True`, since crops cut boxes down.
    """
    return [
        L(T.ResizeScale)(min_scale=min_scale, max_scale=max_scale, target_height=size, target_width=size),
        L(T.FixedSizeCrop)(crop_size=(size, size)),
    ]


def albumentations(*transforms):
    """Transforms of albumentations as one step, such as L(albumentations.HueSaturationValue)(p=0.5)."""
    return L(Albumentations)(transforms=list(transforms), image_format="${...image_format}")


def copy_paste(mapper, share=1.0):
    """Lets `dataloader.train.mapper` paste objects of a second image onto this share of the images.

    After the augmentations, of which arXiv 2012.07177 takes `scale_jitter` and `flip`.
    """
    mapper.update(_target_=CopyPasteMapper, dataset="${..dataset}", copy_paste=share, use_instance_mask=True)


def detr():
    """Mirroring, then 480 to 800 pixels on the shorter side, in half of the cases of a part of the image.

    As DETR (arXiv 2005.12872, section 4) and, after it, Swin and ConvNeXt train; for the crops the mapper
    needs `recompute_boxes=True`.
    """
    cut = [resize([400, 500, 600]), L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600])]
    return [
        flip,
        L(T.RandomApply)(tfm_or_aug=L(T.AugmentationList)(augs=cut), prob=0.5),
        resize(list(range(480, 801, 32))),
    ]


flip = L(T.RandomFlip)(horizontal=True)
# Degrees either way; the canvas keeps its size.
rotation = L(T.RandomRotation)(angle=[-10, 10], expand=False)
# Factors of the original's contrast, brightness and saturation.
color = [
    L(T.RandomContrast)(intensity_min=0.8, intensity_max=1.2),
    L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
    L(T.RandomSaturation)(intensity_min=0.8, intensity_max=1.2),
]
# Between half and all of each side; as for jitter, boxes are to be recomputed.
crop = L(T.RandomCrop)(crop_type="relative_range", crop_size=[0.5, 0.5])
