import mrcnn_plugin

from .....configs.common.schedule import lr_multiplier_3x as lr_multiplier
from .point_rend_R_50_FPN_1x import dataloader, model, optimizer, train

# 3x: 270000 iterations of 16 images, 37 epochs of COCO.
train.max_iter = 270000
