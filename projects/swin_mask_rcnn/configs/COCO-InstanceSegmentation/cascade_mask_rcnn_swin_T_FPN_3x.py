"""Swin-T under Detectron2's Cascade heads; the paper's have four convolutions, SyncBN and a GIoU loss."""

from mrcnn_plugin.projects.cascade_mask_rcnn.configs.common.cascade import use_cascade

from .mask_rcnn_swin_T_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_cascade(model)
