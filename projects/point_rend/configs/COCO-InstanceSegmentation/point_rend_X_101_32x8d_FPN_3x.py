import mrcnn_plugin

from .....configs.common.models.backbones import use_resnext_101
from .point_rend_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

use_resnext_101(
    model.backbone.bottom_up,
    model,
    train,
    num_groups=32,
    width_per_group=8,
    weights="detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
)
