"""The recipe of the authors' PyTorch code (ShuLiu1993/PANet), with the paper's multi-scale training."""

import mrcnn_plugin

from .....configs.common.data.augmentations import flip, resize
from .....configs.common.data.coco import dataloader
from .....configs.common.models.mask_rcnn_fpn import model
from .....configs.common.optim import SGD as optimizer
from .....configs.common.schedule import lr_multiplier_2x as lr_multiplier
from .....configs.common.train import train
from ..common.panet import use_adaptive_pooling, use_fully_connected_fusion, use_path_augmentation

# Four convolutions and one layer in the box head; GroupNorm wherever nothing is pre-trained.
model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="GN")
model.roi_heads.box_predictor.input_shape.channels = 1024
model.roi_heads.mask_head.conv_norm = "GN"
model.backbone.norm = "GN"

use_path_augmentation(model)
use_adaptive_pooling(model)
use_fully_connected_fusion(model)

# 1200 is drawn twice as often as each of the others.
dataloader.train.mapper.augmentations = [resize([1200, 1200, 1000, 800, 600, 400], max_size=1400), flip]
dataloader.test.mapper.augmentations[0].update(short_edge_length=1000, max_size=1400)

# 180000 iterations of 16 images, a tenth of the rate after 120000 and 160000.
train.max_iter = 180000
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
