"""RoI heads whose mask head sees the image's features instead of pooled ones."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.projects.point_rend.roi_heads import PointRendROIHeads

from mrcnn_plugin.modeling import MaskRCNNROIHeads


@ROI_HEADS_REGISTRY.register()
class PointMaskROIHeads(MaskRCNNROIHeads, PointRendROIHeads):
    """MaskRCNNROIHeads that also loads the older parameter names of Detectron2's PointRend zoo."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        # PointRendROIHeads takes any mask head but its own for one of an older release.
        return super(PointRendROIHeads, cls)._init_mask_head(cfg, input_shape)
