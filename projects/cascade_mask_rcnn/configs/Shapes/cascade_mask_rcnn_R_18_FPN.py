"""Cascade Mask R-CNN on the built-in shapes, otherwise as the plain model of the same name."""

from mrcnn_plugin import model_zoo

from ..common.cascade import use_cascade

_plain = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

use_cascade(model)
