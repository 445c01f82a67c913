from mrcnn_plugin.configs.common.schedule import use_schedule_1x

from .htc_R_50_FPN_20e import dataloader, model, optimizer, train

lr_multiplier = use_schedule_1x(train)
