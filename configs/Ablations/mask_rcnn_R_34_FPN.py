"""Table 2a: a deeper backbone; to compare with Shapes/mask_rcnn_R_18_FPN.py."""

from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 34
