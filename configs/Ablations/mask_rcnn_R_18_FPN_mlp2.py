"""Table 2e: a mask branch of two fully connected layers, as wide as the box branch's."""

from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_mlp_masks

use_mlp_masks(model, fc_dims=[256] * 2)
