"""Paper, appendix A, from ImageNet weights; Detectron2's recipe is the same, from COCO weights."""

from ..common.data.cityscapes import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import use_multi_step
from ..common.train import train

# person, rider, car, truck, bus, train, motorcycle, bicycle
model.roi_heads.num_classes = 8

# 24000 iterations of 8 images are 65 epochs of the 2965 that have instances; 0.01 falls to 0.001 at 18000.
lr_multiplier = use_multi_step(train, max_iter=24000, steps=(18000,))
train.eval_period = 8000
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
optimizer.lr = 0.01
