"""For torchvision's maskrcnn_resnet50_fpn, converted by `python -m mrcnn_plugin.checkpoint.convert`."""

import mrcnn_plugin
from mrcnn_plugin.checkpoint import torchvision_settings

from .mask_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, model, optimizer, train

torchvision_settings(model, dataloader)
train.init_checkpoint = "maskrcnn_resnet50_fpn_coco.safetensors"
