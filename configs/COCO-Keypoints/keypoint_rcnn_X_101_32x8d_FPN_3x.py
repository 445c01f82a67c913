from ..common.models.backbones import use_resnext_101_32x8d
from .keypoint_rcnn_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_resnext_101_32x8d(model, train)
