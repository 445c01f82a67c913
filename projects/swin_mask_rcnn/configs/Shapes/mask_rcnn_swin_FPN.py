"""A small Swin Transformer on the built-in shapes, otherwise as the plain Mask R-CNN."""

import mrcnn_plugin

from .....configs.Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.swin import use_swin

# About as many multiply-adds as ResNet-18; nothing is dropped in so few iterations.
use_swin(model, embed_dim=48, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16], drop_path_rate=0.0)
optimizer.params.overrides = dict(relative_position_bias_table=dict(weight_decay=0.0))
