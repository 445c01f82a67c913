"""Keypoints of one's own data from a Keypoint R-CNN that has learned COCO's persons."""

from ..common.data.coco_keypoint import dataloader
from ..common.fine_tune import use_fine_tuning
from ..common.models.keypoint_rcnn_fpn import model
from ..common.optim import AdamW as optimizer
from ..common.train import train

lr_multiplier = use_fine_tuning(dataloader, optimizer, train)
train.init_checkpoint = (
    "detectron2://COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl"
)
