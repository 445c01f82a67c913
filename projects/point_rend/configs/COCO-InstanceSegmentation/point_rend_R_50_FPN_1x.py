"""The paper's head in Detectron2's 1x schedule: 90000 iterations of 16 images, 12.3 epochs of COCO."""

import mrcnn_plugin

from .....configs.common.data.coco import dataloader
from .....configs.common.models.mask_rcnn_fpn import model
from .....configs.common.optim import SGD as optimizer
from .....configs.common.schedule import lr_multiplier_1x as lr_multiplier
from .....configs.common.train import train
from ..common import use_point_rend

use_point_rend(model, dataloader)

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
