"""The authors' recipe: 90000 iterations of 16 images, a tenth of the rate after 60000 and 80000."""

from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.schedule import use_schedule_1x

from ..common.mask_scoring import use_mask_scoring

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

use_mask_scoring(model)

lr_multiplier = use_schedule_1x(train)
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
