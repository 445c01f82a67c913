"""Table 6: RoIPool of boxes and keypoints; to compare with Shapes/keypoint_rcnn_R_18_FPN.py."""

from ..Shapes.keypoint_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_pooler

use_pooler(model, pooler_type="ROIPool")
