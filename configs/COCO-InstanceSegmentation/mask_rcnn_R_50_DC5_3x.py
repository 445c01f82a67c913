from ..common.schedule import use_schedule_3x
from .mask_rcnn_R_50_DC5_1x import dataloader, model, optimizer, train

lr_multiplier = use_schedule_3x(train)
