"""PointRend on the built-in shapes: the plain config with coarse and point heads of its proportions."""

from mrcnn_plugin import model_zoo

from ..common.point_rend import use_point_rend

_plain = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

# A quarter of the channels of the paper's heads, as of the plain config's.
use_point_rend(model, dataloader, conv_dim=64, fc_dim=256, point_fc_dim=64)
