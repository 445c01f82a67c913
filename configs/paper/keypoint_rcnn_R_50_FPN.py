"""The paper's keypoint recipe (section 5): scales of 640 to 800 pixels, 90000 iterations of 16 images."""

# The 1x schedule is the paper's here: 0.02, a tenth of it from 60000 and a hundredth from 80000 on.
from ..common.data.coco_keypoint import dataloader
from ..common.models.keypoint_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import use_schedule_1x
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
dataloader.train.mapper.augmentations[0].update(short_edge_length=(640, 800), sample_style="range")
lr_multiplier = use_schedule_1x(train)
