"""A mask head on the RoIs of each stage, where the other configs have one on the first stage's."""

from ..common.cascade import use_mask_head_of_every_stage
from .cascade_mask_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, model, optimizer, train

use_mask_head_of_every_stage(model)
