"""For torchvision's maskrcnn_resnet50_fpn, converted by `python -m mrcnn_plugin.checkpoint.convert`."""

from ..common.models.torchvision import use_torchvision
from .mask_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, model, optimizer, train

use_torchvision(model, dataloader)
train.init_checkpoint = "maskrcnn_resnet50_fpn_coco.safetensors"
