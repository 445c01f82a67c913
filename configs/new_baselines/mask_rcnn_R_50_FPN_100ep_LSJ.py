"""From scratch for 100 epochs with large-scale jitter (arXiv 2012.07177), as Detectron2's new baselines."""

from ..common.data.augmentations import flip as _flip, scale_jitter
from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import use_multi_step
from ..common.train import train

# Images scaled by 0.1 to 2 of what fits 1024 x 1024, then cropped or padded to that.
dataloader.train.mapper.augmentations = [*scale_jitter(1024), _flip]
dataloader.train.mapper.recompute_boxes = True
dataloader.train.total_batch_size = 64

# Nothing pre-trained, nothing frozen: batch statistics over all devices.
model.backbone.bottom_up.freeze_at = 0
model.backbone.bottom_up.stem.norm = "SyncBN"
model.backbone.bottom_up.stages.norm = "SyncBN"
model.backbone.norm = "SyncBN"
# Two convolutions in the RPN, four and one layer in the box head.
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024])
model.roi_heads.box_predictor.input_shape.channels = 1024
# Weighted by each device's share of the RoIs, of which it may have none.
for _head in (model.roi_heads.box_head, model.roi_heads.mask_head):
    _head.conv_norm = "naiveSyncBN_N"

# 100 epochs: 184375 iterations of 64 images are 11.8 M images, 100 times COCO's 118000.
lr_multiplier = use_multi_step(
    train, max_iter=184375, steps=(163889, 177546), warmup_iter=500, warmup_factor=0.067
)
train.amp.enabled = True
train.ddp.fp16_compression = True
optimizer.update(lr=0.1, weight_decay=4e-5)
