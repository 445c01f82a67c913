from mrcnn_plugin.configs.common.models.backbones import use_resnext_101_32x8d

from .point_rend_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_resnext_101_32x8d(model, train)
