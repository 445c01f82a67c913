from ..common.swin import SIZES as _SIZES, use_swin
from .mask_rcnn_swin_T_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_swin(model, **_SIZES["B"])
train.init_checkpoint = "swin_base_patch4_window7_224.safetensors"
