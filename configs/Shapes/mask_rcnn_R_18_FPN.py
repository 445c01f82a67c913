"""Mask R-CNN small enough to learn the built-in shapes from scratch in minutes on two CPU cores."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import ResNet

from ..common.data.constants import imagenet as _imagenet
from ..common.data.shapes import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import use_one_cycle
from ..common.train import train

# Nothing pre-trained: BatchNorm learns, and the pixels have unit deviation.
model.backbone.bottom_up.update(stages=L(ResNet.make_default_stages)(depth=18, norm="BN"), freeze_at=0)
model.backbone.bottom_up.stem.norm = "BN"
model.pixel_std = _imagenet.bgr_std

model.backbone.out_channels = 64
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
# Images are 160 pixels a side and hold few objects.
model.proposal_generator.update(pre_nms_topk=(500, 500), post_nms_topk=(300, 300))
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.mask_head.conv_dims = [64] * 5

# circle, square, triangle, star
model.roi_heads.num_classes = 4

# 420 iterations of 8 images: 1.7 times the 2000 drawn ones.
lr_multiplier = use_one_cycle(train, max_iter=420)
train.update(eval_period=420, log_period=10, checkpointer=dict(period=100, max_to_keep=2))
optimizer.update(lr=1e-3, clip_norm=1.0)
