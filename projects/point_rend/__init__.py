"""PointRend for instance masks (Kirillov et al., arXiv 1912.08193), on Detectron2's own modules."""

from .export import PointHeads
from .mask_head import PointMaskHead
from .point_head import OneClassPointHead
from .point_labels import point_labels
from .roi_heads import PointMaskROIHeads

__all__ = ["OneClassPointHead", "PointHeads", "PointMaskHead", "PointMaskROIHeads", "point_labels"]
