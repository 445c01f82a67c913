"""Table 2b: multinomial masks, a softmax over the classes at every pixel."""

from .mask_rcnn_R_18_C4 import dataloader, lr_multiplier, model, optimizer, train
from ..common.ablations import use_softmax_masks

use_softmax_masks(model)
