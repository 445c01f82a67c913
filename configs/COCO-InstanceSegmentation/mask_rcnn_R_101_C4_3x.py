from ..common.models.backbones import use_resnet_101
from .mask_rcnn_R_50_C4_3x import dataloader, lr_multiplier, model, optimizer, train

use_resnet_101(model, train)
