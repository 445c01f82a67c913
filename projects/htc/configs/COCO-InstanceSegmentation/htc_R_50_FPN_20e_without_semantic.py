"""For data without semantic labels: the paper's schedule, all but the semantic branch."""

from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.schedule import use_multi_step

from ..common.htc import use_htc

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

# 20 epochs of COCO's 117266 annotated images, 16 per iteration, are 146583 iterations; the rate falls after
# 16 epochs, 117266 iterations, and 19, 139253.
lr_multiplier = use_multi_step(train, max_iter=146583, steps=(117266, 139253))

# One scale.
dataloader.train.mapper.augmentations[0].short_edge_length = 800

use_htc(model)
model.proposal_generator.post_nms_topk = (2000, 1000)
for _predictor in model.roi_heads.box_predictors:
    _predictor.test_score_thresh = 0.001
