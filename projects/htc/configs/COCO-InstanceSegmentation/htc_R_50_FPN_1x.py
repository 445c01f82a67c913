import mrcnn_plugin

from .....configs.common.schedule import lr_multiplier_1x as lr_multiplier
from .htc_R_50_FPN_20e import dataloader, model, optimizer, train

train.max_iter = 90000
