"""PointRend on data of one's own, otherwise as the plain config of the same backbone."""

from mrcnn_plugin import model_zoo

from ..common.point_rend import use_point_rend

_plain = model_zoo.get_config("FineTune/mask_rcnn_efficientnet_lite0_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

# Half of the channels of the paper's heads, as of the narrow FPN.
use_point_rend(model, dataloader, conv_dim=128, fc_dim=512, point_fc_dim=128)
