"""Base of Table 2d: one map of stride 32, of which most built-in shapes cover 1 to 5 pixels."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ..common.ablations import use_one_map
from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train

use_one_map(model, "res5", stride=32, channels=512, anchor_sizes=[32, 64, 128])

# Images of 160 pixels at twice their size: a map of 10 x 10, shapes as many of its pixels wide as on C4.
_resize = L(T.ResizeShortestEdge)(short_edge_length=320, max_size=320)
dataloader.train.mapper.augmentations.insert(0, _resize)
dataloader.test.mapper.augmentations = [_resize]
