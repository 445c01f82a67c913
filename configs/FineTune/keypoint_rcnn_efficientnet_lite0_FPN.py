"""Keypoints of one's own data in minutes on a CPU, from ImageNet weights that `make setup` brings."""

from ..common.data.coco_keypoint import dataloader
from ..common.fine_tune import use_efficientnet_lite0, use_fine_tuning
from ..common.models.keypoint_rcnn_fpn import model
from ..common.optim import AdamW as optimizer
from ..common.train import train

lr_multiplier = use_fine_tuning(dataloader, optimizer, train)
use_efficientnet_lite0(model, dataloader, train)
