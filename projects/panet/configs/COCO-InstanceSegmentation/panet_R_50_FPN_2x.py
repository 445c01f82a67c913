"""The recipe of the authors' PyTorch code (ShuLiu1993/PANet), with the paper's multi-scale training."""

from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.data.augmentations import resize
from mrcnn_plugin.configs.common.schedule import use_schedule_2x

from ..common.panet import use_adaptive_pooling, use_fully_connected_fusion, use_path_augmentation

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train
_flip = model_zoo.get_config("common/data/augmentations.py").flip

# Four convolutions and one layer in the box head; GroupNorm wherever nothing is pre-trained.
model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="GN")
model.roi_heads.box_predictor.input_shape.channels = 1024
model.roi_heads.mask_head.conv_norm = "GN"
model.backbone.norm = "GN"

use_path_augmentation(model)
use_adaptive_pooling(model)
use_fully_connected_fusion(model)

# 1200 is drawn twice as often as each of the others.
dataloader.train.mapper.augmentations = [resize([1200, 1200, 1000, 800, 600, 400], max_size=1400), _flip]
dataloader.test.mapper.augmentations[0].update(short_edge_length=1000, max_size=1400)

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
lr_multiplier = use_schedule_2x(train)
