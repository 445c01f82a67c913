"""Mask Scoring R-CNN on the built-in shapes: the plain config with a MaskIoU head of its proportions."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.projects.mask_scoring_rcnn import MaskIoUHead, MaskScoringROIHeads

from .....configs.Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads._target_ = MaskScoringROIHeads
model.roi_heads.mask_iou_head = L(MaskIoUHead)(
    input_shape="${..mask_head.input_shape}",
    num_classes="${..num_classes}",
    conv_dims=[64] * 4,
    fc_dims=[256, 256],
)
