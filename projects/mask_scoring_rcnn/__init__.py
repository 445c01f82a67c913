"""Mask Scoring R-CNN (Huang et al., arXiv 1903.00241): masks ranked by their predicted IoU."""

from .export import MaskScoringHeads
from .mask_iou import area_ratio, mask_iou_loss, mask_iou_targets
from .mask_iou_head import MaskIoUHead, add_mask_scoring_config
from .roi_heads import MaskScoringROIHeads

__all__ = [
    "MaskIoUHead",
    "MaskScoringHeads",
    "MaskScoringROIHeads",
    "add_mask_scoring_config",
    "area_ratio",
    "mask_iou_loss",
    "mask_iou_targets",
]
