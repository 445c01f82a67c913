from ..common.swin import SIZES as _SIZES, use_swin
from .mask_rcnn_swin_T_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_swin(model, **_SIZES["S"])
train.init_checkpoint = "swin_small_patch4_window7_224.safetensors"
