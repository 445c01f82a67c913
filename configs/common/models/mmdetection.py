"""What weights from MMDetection's detectors expect of the model; see `mrcnn_plugin.checkpoint.convert`."""

from ..data.constants import imagenet


def use_mmdetection(model, dataloader, *, style="pytorch"):
    """The input, the backbone's stride and the RoIAlign of MMDetection's R-CNN + FPN.

    Args:
        model: of the shape of `mask_rcnn_fpn.py`. Depth, groups and width of the backbone are its own.
        dataloader: its mappers read in the weights' order of colours from here on.
        style: the `style` of the backbone in MMDetection's config: "pytorch" (stride in the 3x3, RGB, pixels
            of unit deviation) or "caffe" (stride in the 1x1, BGR).
    """
    if style not in ("pytorch", "caffe"):
        raise ValueError(f"style must be 'pytorch' or 'caffe', as in MMDetection's config, got {style!r}")
    if style == "pytorch":
        model.update(pixel_mean=imagenet.rgb_mean, pixel_std=imagenet.rgb_std, input_format="RGB")
    else:
        model.update(pixel_mean=imagenet.bgr_mean, pixel_std=imagenet.caffe_std, input_format="BGR")
    model.backbone.bottom_up.stages.stride_in_1x1 = style == "caffe"
    for name in ("box_pooler", "mask_pooler"):
        if model.roi_heads.get(name):
            model.roi_heads[name].update(pooler_type="ROIAlignV2", sampling_ratio=0)
    for split in ("train", "test"):
        dataloader[split].mapper.image_format = model.input_format
