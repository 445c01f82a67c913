"""For data without semantic labels: the paper's schedule, all but the semantic branch."""

import mrcnn_plugin

from .....configs.common.data.coco import dataloader
from .....configs.common.models.mask_rcnn_fpn import model
from .....configs.common.optim import SGD as optimizer
from .....configs.common.schedule import multi_step
from .....configs.common.train import train
from ..common.htc import use_htc

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

# 20 epochs of COCO's 117266 annotated images, 16 an iteration, are 146583 iterations; the rate falls after
# 16 epochs, 117266 iterations, and 19, 139253.
train.max_iter = 146583
lr_multiplier = multi_step(train.max_iter, steps=(117266, 139253))

# One scale.
dataloader.train.mapper.augmentations[0].short_edge_length = 800

use_htc(model)
model.proposal_generator.post_nms_topk = (2000, 1000)
for _predictor in model.roi_heads.box_predictors:
    _predictor.test_score_thresh = 0.001
