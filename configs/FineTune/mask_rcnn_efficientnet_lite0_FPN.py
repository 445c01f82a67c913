"""Masks of one's own data in minutes on a CPU, from ImageNet weights that `make setup` brings."""

from ..common.fine_tune import dataloader, lr_multiplier, optimizer, train, use_efficientnet_lite0
from ..common.models.mask_rcnn_fpn import model

use_efficientnet_lite0(model, dataloader, train)
