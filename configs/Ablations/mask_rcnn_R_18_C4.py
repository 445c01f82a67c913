"""Base of Tables 2b and 2c: one map of stride 16, of which most built-in shapes cover 1 to 5 pixels."""

from ..common.ablations import use_one_map
from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train

use_one_map(model, name="res4", stride=16, channels=256, anchor_sizes=[16, 32, 64])
