"""Table 2c: RoIPool, maximum over the pixels of quantised bins."""

from .mask_rcnn_R_18_C4 import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_pooler

use_pooler(model, pooler_type="ROIPool")
