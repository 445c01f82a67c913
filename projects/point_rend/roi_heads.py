"""RoI heads whose mask head sees the image's features instead of pooled ones."""

from __future__ import annotations

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.projects.point_rend.roi_heads import PointRendROIHeads

from mrcnn_plugin.modeling import MaskRCNNROIHeads


@ROI_HEADS_REGISTRY.register()
class PointMaskROIHeads(MaskRCNNROIHeads, PointRendROIHeads):
    """MaskRCNNROIHeads that also loads the older parameter names of Detectron2's PointRend zoo."""
