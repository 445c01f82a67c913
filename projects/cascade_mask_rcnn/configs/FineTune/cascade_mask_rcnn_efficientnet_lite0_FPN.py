"""Cascade Mask R-CNN on data of one's own, otherwise as the plain config of the same backbone."""

from mrcnn_plugin import model_zoo

from ..common.cascade import use_cascade

_plain = model_zoo.get_config("FineTune/mask_rcnn_efficientnet_lite0_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

use_cascade(model)
