from ..common.models.mask_rcnn_dc5 import model
from .mask_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, optimizer, train
