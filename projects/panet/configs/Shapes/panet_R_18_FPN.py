"""PANet on the built-in shapes; backbone, budget and widths of configs/Shapes/mask_rcnn_R_18_FPN.py."""

import mrcnn_plugin

from .....configs.Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.panet import use_adaptive_pooling, use_fully_connected_fusion, use_path_augmentation

use_path_augmentation(model)
use_adaptive_pooling(model)
use_fully_connected_fusion(model)
