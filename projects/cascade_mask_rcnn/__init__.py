"""Cascade Mask R-CNN (Cai & Vasconcelos, arXiv 1906.09756); importing it registers its RoI heads."""

from .config import add_cascade_config
from .export import CascadeMaskHeads
from .labels import label_proposals, with_gt_masks
from .roi_heads import CascadeMaskRCNNROIHeads

__all__ = [
    "CascadeMaskHeads",
    "CascadeMaskRCNNROIHeads",
    "add_cascade_config",
    "label_proposals",
    "with_gt_masks",
]
