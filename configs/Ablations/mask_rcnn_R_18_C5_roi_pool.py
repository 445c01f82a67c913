"""Table 2d: RoIPool of boxes and masks at stride 32."""

from .mask_rcnn_R_18_C5 import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_pooler

use_pooler(model, pooler_type="ROIPool")
