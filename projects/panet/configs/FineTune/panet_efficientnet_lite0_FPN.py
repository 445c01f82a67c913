"""PANet on data of one's own, otherwise as the plain config of the same backbone."""

from mrcnn_plugin import model_zoo

from ..common.panet import use_adaptive_pooling, use_fully_connected_fusion, use_path_augmentation

_plain = model_zoo.get_config("FineTune/mask_rcnn_efficientnet_lite0_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

use_path_augmentation(model)
use_adaptive_pooling(model)
use_fully_connected_fusion(model)
