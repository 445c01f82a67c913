"""RoI pooling from a feature pyramid in one call."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import poolers


class ROIPooler(poolers.ROIPooler):
    """Detectron2's ROIPooler."""


def build_pooler(cfg: CfgNode, head: CfgNode, input_shape: dict[str, ShapeSpec]) -> ROIPooler:
    """The pooler that `head` (cfg.MODEL.ROI_BOX_HEAD, ROI_MASK_HEAD or ROI_KEYPOINT_HEAD) describes."""
    return ROIPooler(
        output_size=head.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES),
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )
