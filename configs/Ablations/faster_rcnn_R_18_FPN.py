"""Table 3: boxes alone; to compare with Shapes/mask_rcnn_R_18_FPN.py."""

import mrcnn_plugin

from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import without_masks

without_masks(model, dataloader)
