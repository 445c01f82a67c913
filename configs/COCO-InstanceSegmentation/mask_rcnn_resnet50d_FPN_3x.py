"""ResNet-50-D (arXiv 1812.01187): three 3x3 convolutions as stem, shortcuts that average before they project.

Detectron2's 3x schedule of ResNet-50, and as there the stem, res2 and every BatchNorm stay as on ImageNet.
"""

from ..common.models.timm import use_timm
from .mask_rcnn_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_timm(model, dataloader, name="resnet50d", norm="FrozenBN", freeze_at=2)
train.init_checkpoint = "timm://resnet50d.ra2_in1k"
