"""Swin backbones, and the recipe that they are fine-tuned with; each changes a config in place."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.data.augmentations import detr
from mrcnn_plugin.configs.common.schedule import use_multi_step
from mrcnn_plugin.projects.swin_mask_rcnn import SwinTransformer

# Of the paper's section 3.3; drop path as in the official detection configs.
SIZES = dict(
    T=dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], drop_path_rate=0.2),
    S=dict(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], drop_path_rate=0.2),
    B=dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], drop_path_rate=0.3),
)


def use_swin(model, **arguments):
    """A Swin Transformer below the FPN in place of a ResNet; `arguments` are its own (`SIZES`)."""
    model.backbone.bottom_up = L(SwinTransformer)(
        **arguments, window_size=7, out_features=["stage1", "stage2", "stage3", "stage4"]
    )


def use_swin_recipe(model, dataloader, optimizer, train):
    """The paper's section 4.2: 3x, multi-scale, AdamW; the details are those of the official configs.

    Returns:
        The learning rate's multiplier.
    """
    # ImageNet's weights expect RGB of unit deviation.
    imagenet = model_zoo.get_config("common/data/constants.py").imagenet
    model.update(pixel_mean=imagenet.rgb_mean, pixel_std=imagenet.rgb_std, input_format="RGB")
    mapper = dataloader.train.mapper
    mapper.image_format = "RGB"
    mapper.augmentations = detr()
    mapper.recompute_boxes = True

    # No decay of norms and of the biases of relative positions.
    optimizer.update(lr=1e-4, weight_decay=0.05)
    optimizer.params.overrides = dict(relative_position_bias_table=dict(weight_decay=0.0))
    train.amp.enabled = True
    # 36 epochs of 7330 iterations of 16 images; the rate falls after 27 and 33.
    return use_multi_step(train, max_iter=36 * 7330, steps=(27 * 7330, 33 * 7330), warmup_iter=500)
