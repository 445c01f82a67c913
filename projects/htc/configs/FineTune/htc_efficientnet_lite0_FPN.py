"""HTC without its semantic branch on data of one's own, otherwise as the plain config of its backbone."""

from mrcnn_plugin import model_zoo

from ..common.htc import use_htc

_plain = model_zoo.get_config("FineTune/mask_rcnn_efficientnet_lite0_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

use_htc(model)
