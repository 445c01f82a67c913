"""Mask R-CNN on one map of stride 16, the fifth stage dilated in place of strided: model."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.modeling.backbone import resnet_stages

from .mask_rcnn_c4 import model as _c4
from .mask_rcnn_fpn import model
from .parts import pooler, resnet

_channels = 2048

model.backbone = resnet(["res5"])
model.backbone.stages = L(resnet_stages)(depth=50, norm="FrozenBN", stride_in_1x1=True, res5_dilation=2)
# All anchors and proposals on the one map, as on C4.
model.proposal_generator = _c4.proposal_generator
model.proposal_generator.in_features = ["res5"]
model.proposal_generator.head.in_channels = _channels

model.roi_heads.box_in_features = ["res5"]
model.roi_heads.box_pooler = pooler(7, [16])
model.roi_heads.mask_pooler = pooler(14, [16])
model.roi_heads.box_head.input_shape.channels = _channels
model.roi_heads.mask_head.input_shape.channels = _channels
