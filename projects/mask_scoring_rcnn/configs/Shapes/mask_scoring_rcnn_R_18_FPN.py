"""Mask Scoring R-CNN on the built-in shapes: the plain config with a MaskIoU head of its proportions."""

from mrcnn_plugin import model_zoo

from ..common.mask_scoring import use_mask_scoring

_plain = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

use_mask_scoring(model, conv_dims=[64] * 4, fc_dims=[256, 256])
