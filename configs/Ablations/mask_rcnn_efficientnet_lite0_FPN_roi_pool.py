"""RoIPool in place of RoIAlign on data of one's own (Table 2c)."""

from ..FineTune.mask_rcnn_efficientnet_lite0_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_pooler

use_pooler(model, pooler_type="ROIPool")
