from mrcnn_plugin import model_zoo

from ..common.swin import SIZES as _SIZES, use_swin, use_swin_recipe

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").AdamW
train = model_zoo.get_config("common/train.py").train

use_swin(model, **_SIZES["T"])
lr_multiplier = use_swin_recipe(model, dataloader, optimizer, train)
# The official ImageNet weights, converted: see the README.
train.init_checkpoint = "swin_tiny_patch4_window7_224.safetensors"
