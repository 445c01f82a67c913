"""What weights from torchvision's detectors expect of the model; see `mrcnn_plugin.checkpoint.convert`."""

from mrcnn_plugin.modeling.anchor_generator import RoundedAnchorGenerator
from omegaconf import OmegaConf

from ..data.constants import imagenet


def use_torchvision(model, dataloader, *, version=1):
    """The input, RoIAlign, anchors and proposal counts of torchvision's R-CNN + FPN.

    What stays different at inference: torchvision drops detections narrower than 0.01 px, resizes images
    with a float filter, and pastes masks at whole-pixel boxes.

    Args:
        model: of the shape of `mask_rcnn_fpn.py`, `faster_rcnn_fpn.py` or `keypoint_rcnn_fpn.py`.
        dataloader: its mappers read RGB from here on.
        version: 1, or 2 for the `_v2` models (BatchNorm in FPN and heads, two RPN convolutions, four box
            convolutions).
    """
    if version not in (1, 2):
        raise ValueError(f"version must be 1 or 2, got {version!r}")
    model.update(pixel_mean=imagenet.rgb_mean, pixel_std=imagenet.rgb_std, input_format="RGB")
    model.backbone.bottom_up.stages.stride_in_1x1 = False
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.anchor_generator._target_ = RoundedAnchorGenerator
    rpn.update(min_box_size=1e-3, post_nms_topk=[2000, 1000])
    for name in ("box_pooler", "mask_pooler", "keypoint_pooler"):
        if heads.get(name):
            heads[name].update(pooler_type="ROIAlign", sampling_ratio=2)
    if version == 2:
        _use_version_2(model)
    for split in ("train", "test"):
        dataloader[split].mapper.image_format = "RGB"


def _use_version_2(model):
    heads = model.roi_heads
    model.backbone.bottom_up.stem.norm = model.backbone.bottom_up.stages.norm = "BN"
    model.backbone.norm = "BN"
    model.proposal_generator.head.conv_dims = [-1, -1]
    # The predictor's channels may follow fc_dims[1], which goes.
    if OmegaConf.is_dict(heads.box_predictor.input_shape):
        heads.box_predictor.input_shape.channels = 1024
    heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="BN")
    if heads.get("mask_head"):
        heads.mask_head.conv_norm = "BN"
