"""Boxes, masks and keypoints of persons from one model (paper Table 5)."""

from ..common.models.mask_keypoint_rcnn_fpn import model
from .keypoint_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, optimizer, train

dataloader.train.mapper.use_instance_mask = True
