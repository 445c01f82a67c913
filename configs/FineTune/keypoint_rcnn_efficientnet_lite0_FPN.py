"""Keypoints of one's own data in minutes on a CPU, from ImageNet weights that `make setup` brings."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from ..common.fine_tune import dataloader, lr_multiplier, optimizer, train, use_efficientnet_lite0
from ..common.models.keypoint_rcnn_fpn import model

use_efficientnet_lite0(model, dataloader, train)
