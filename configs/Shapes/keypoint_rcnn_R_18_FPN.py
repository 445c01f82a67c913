"""Keypoint R-CNN small enough to learn the built-in stick figures from scratch in minutes."""

from ..common.data.shapes_keypoint import dataloader
from ..common.models.keypoint_rcnn_fpn import model as _keypoint_rcnn
from ..common.schedule import use_one_cycle
from .mask_rcnn_R_18_FPN import model, optimizer, train

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_key)
for _key in ("keypoint_in_features", "keypoint_pooler", "keypoint_head"):
    model.roi_heads[_key] = _keypoint_rcnn.roi_heads[_key]
model.roi_heads.num_classes = 1
model.roi_heads.keypoint_head.conv_dims = [64] * 4
model.roi_heads.box_predictor.smooth_l1_beta = 0.5

# 600 iterations of 8 images: keypoints take longer than masks.
lr_multiplier = use_one_cycle(train, max_iter=600)
train.eval_period = 600
