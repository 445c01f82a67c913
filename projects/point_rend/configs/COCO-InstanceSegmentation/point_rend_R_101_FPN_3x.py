from mrcnn_plugin.configs.common.models.backbones import use_resnet_101

from .point_rend_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_resnet_101(model, train)
