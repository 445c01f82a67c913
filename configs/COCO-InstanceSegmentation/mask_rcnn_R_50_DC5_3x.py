import mrcnn_plugin

from ..common.schedule import lr_multiplier_3x as lr_multiplier
from .mask_rcnn_R_50_DC5_1x import dataloader, model, optimizer, train

# 3x: 270000 iterations of 16 images, 37 epochs of COCO.
train.max_iter = 270000
