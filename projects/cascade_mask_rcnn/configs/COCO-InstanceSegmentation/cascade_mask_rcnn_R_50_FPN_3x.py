from mrcnn_plugin.configs.common.schedule import use_schedule_3x

from .cascade_mask_rcnn_R_50_FPN_1x import dataloader, model, optimizer, train

lr_multiplier = use_schedule_3x(train)
