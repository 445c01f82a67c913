from mrcnn_plugin.configs.common.models.backbones import use_resnet_101

from .htc_R_50_FPN_20e import dataloader, lr_multiplier, model, optimizer, train

use_resnet_101(model, train)
