"""Base of Table 2d: one map of stride 32, of which most built-in shapes cover 1 to 4 pixels."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ..common.ablations import use_one_map
from ..Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train

use_one_map(model, name="res5", stride=32, channels=512, anchor_sizes=[32, 64, 128])

# Images of 160 pixels enlarged, or the map were 5 x 5; it is 8 x 8.
_resize = L(T.ResizeShortestEdge)(short_edge_length=256, max_size=256)
dataloader.train.mapper.augmentations.insert(0, _resize)
dataloader.test.mapper.augmentations = [_resize]
