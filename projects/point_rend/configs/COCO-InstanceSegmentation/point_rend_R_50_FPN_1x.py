"""The paper's head in Detectron2's 1x schedule: 90000 iterations of 16 images, 12.3 epochs of COCO."""

from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.schedule import use_schedule_1x

from ..common.point_rend import use_point_rend

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

use_point_rend(model, dataloader)

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
lr_multiplier = use_schedule_1x(train)
