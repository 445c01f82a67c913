"""Cascade Mask R-CNN on the built-in shapes, otherwise as the plain model of the same name."""

import mrcnn_plugin

from .....configs.Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.cascade import use_cascade

use_cascade(model.roi_heads)
