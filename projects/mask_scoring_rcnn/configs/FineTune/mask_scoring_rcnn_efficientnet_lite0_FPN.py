"""Mask Scoring R-CNN on data of one's own, otherwise as the plain config of the same backbone."""

from mrcnn_plugin import model_zoo

from ..common.mask_scoring import use_mask_scoring

_plain = model_zoo.get_config("FineTune/mask_rcnn_efficientnet_lite0_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

# As wide as the narrow mask and box heads.
use_mask_scoring(model, conv_dims=[128] * 4, fc_dims=[512, 512])
