"""Hybrid Task Cascade (Chen et al. 2019, arXiv 1901.07518); importing it registers its components."""

from .export import HTCHeads
from .mask_head import HTCMaskHead
from .meta_arch import HybridTaskCascade, LabelledImageList
from .roi_heads import HTCROIHeads
from .semantic_head import FusedSemanticHead

__all__ = [
    "FusedSemanticHead",
    "HTCHeads",
    "HTCMaskHead",
    "HTCROIHeads",
    "HybridTaskCascade",
    "LabelledImageList",
]
