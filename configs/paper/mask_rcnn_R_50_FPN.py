"""The paper's own recipe (section 3.1): one scale of 800 pixels, 160000 iterations of 8 GPUs x 2 images."""

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import use_multi_step
from ..common.train import train

# 160000 iterations of 16 images are 2.56 M, 22 epochs of COCO; a tenth of the rate 0.02 from 120000 on.
lr_multiplier = use_multi_step(train, max_iter=160000, steps=(120000,))
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
dataloader.train.mapper.augmentations[0].short_edge_length = 800
