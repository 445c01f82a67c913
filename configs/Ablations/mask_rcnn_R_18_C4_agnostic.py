"""Section 4.2: class-agnostic masks."""

from .mask_rcnn_R_18_C4 import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_class_agnostic_masks

use_class_agnostic_masks(model)
