import mrcnn_plugin

from .....configs.common.data.coco import dataloader
from .....configs.common.models.mask_rcnn_fpn import model
from .....configs.common.optim import AdamW as optimizer
from .....configs.common.train import train
from ..common.swin import SIZES, use_swin, use_swin_recipe

use_swin(model, **SIZES["T"])
lr_multiplier = use_swin_recipe(model, dataloader, optimizer, train)
# The official ImageNet weights, converted: see the README.
train.init_checkpoint = "swin_tiny_patch4_window7_224.safetensors"
