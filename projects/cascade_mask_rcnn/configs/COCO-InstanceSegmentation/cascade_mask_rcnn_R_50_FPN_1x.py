from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.schedule import use_schedule_1x

from ..common.cascade import use_cascade

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

use_cascade(model)
model.proposal_generator.post_nms_topk = (2000, 1000)
lr_multiplier = use_schedule_1x(train)
