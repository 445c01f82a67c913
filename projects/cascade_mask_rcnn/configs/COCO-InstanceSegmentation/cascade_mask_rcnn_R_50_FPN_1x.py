import mrcnn_plugin

from .....configs.common.data.coco import dataloader
from .....configs.common.models.mask_rcnn_fpn import model
from .....configs.common.optim import SGD as optimizer
from .....configs.common.schedule import lr_multiplier_1x as lr_multiplier
from .....configs.common.train import train
from ..common.cascade import use_cascade

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

use_cascade(model.roi_heads)
model.proposal_generator.post_nms_topk = (2000, 1000)
