"""PANet (Liu et al., arXiv 1803.01534); importing it registers its parts with Detectron2."""

from .adaptive_pooling import AdaptiveBoxHead, AdaptiveFeaturePooler, LevelFusion
from .mask_head import FullyConnectedMask, PANetMaskHead
from .path_augmentation import PathAggregationFPN

__all__ = [
    "AdaptiveBoxHead",
    "AdaptiveFeaturePooler",
    "FullyConnectedMask",
    "LevelFusion",
    "PANetMaskHead",
    "PathAggregationFPN",
]
