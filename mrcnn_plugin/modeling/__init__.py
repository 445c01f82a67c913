"""The components registered with Detectron2: poolers, heads, RoI heads, meta architecture.

Axes: N images, K regions of interest (RoIs) of all images together and K_i of image i, C channels, M side
of a mask, S side of a keypoint heatmap; numbers of classes and keypoints are spelt out, num_classes and
num_keypoints. Boxes are xyxy in pixels of the network's input.
"""

from .box_predictor import BoxPredictor
from .config import add_config
from .keypoint_head import OneHotKeypointHead
from .mask_head import FCNMaskHead, MLPMaskHead, SoftmaxMaskHead
from .poolers import ROIPooler
from .rcnn import MaskRCNN, returning_masks_as
from .rle_masks import RLEMasks
from .roi_heads import MaskRCNNC4ROIHeads, MaskRCNNROIHeads
from .rpn import MaskRCNNRPN
from .test_time_augmentation import RCNNWithTTA, RelativeScales
from .timm_backbone import TimmBackbone, timm_normalization

__all__ = [
    "BoxPredictor",
    "FCNMaskHead",
    "MLPMaskHead",
    "MaskRCNN",
    "MaskRCNNC4ROIHeads",
    "MaskRCNNROIHeads",
    "MaskRCNNRPN",
    "OneHotKeypointHead",
    "RCNNWithTTA",
    "RLEMasks",
    "ROIPooler",
    "RelativeScales",
    "SoftmaxMaskHead",
    "TimmBackbone",
    "add_config",
    "returning_masks_as",
    "timm_normalization",
]
