"""PointRend on the built-in shapes: the plain config with coarse and point heads of its proportions."""

import mrcnn_plugin

from .....configs.Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common import use_point_rend

# A quarter of the channels of the paper's heads, as of the plain config's.
use_point_rend(model, dataloader, conv_dim=64, fc_dim=256, point_fc_dim=64)
