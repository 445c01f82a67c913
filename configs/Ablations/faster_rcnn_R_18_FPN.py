"""Table 3: boxes alone; to compare with Shapes/mask_rcnn_R_18_FPN.py."""

from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_boxes_only

use_boxes_only(model, dataloader)
