from mrcnn_plugin.configs.common.models.backbones import use_resnet_101

from .mask_scoring_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, model, optimizer, train

use_resnet_101(model, train)
