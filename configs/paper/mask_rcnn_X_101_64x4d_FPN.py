from ..common.models.backbones import use_resnext_101
from .mask_rcnn_R_50_FPN import dataloader, lr_multiplier, model, optimizer, train

use_resnext_101(
    model,
    train,
    num_groups=64,
    width_per_group=4,
    weights="catalog://ImageNetPretrained/FAIR/X-101-64x4d",
)
# One image a GPU at half the rate, for as many iterations.
dataloader.train.total_batch_size = 8
optimizer.lr = 0.01
