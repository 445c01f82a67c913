"""A mask branch of two fully connected layers on data of one's own (Table 2e)."""

from ..FineTune.mask_rcnn_efficientnet_lite0_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_mlp_masks

use_mlp_masks(model, fc_dims=[512] * 2)
