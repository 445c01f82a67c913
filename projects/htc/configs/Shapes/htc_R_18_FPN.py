"""A Hybrid Task Cascade on the built-in shapes, otherwise as the plain Mask R-CNN of the same name."""

import mrcnn_plugin

from .....configs.Shapes.mask_rcnn_R_18_FPN import dataloader, lr_multiplier, model, optimizer, train
from ..common.htc import use_htc, use_semantic_branch

use_htc(model)
# The background and four shapes. Things are a quarter of the size of COCO's, so the branch is on the finest
# level, as its anchors are.
use_semantic_branch(model, num_classes=5, fused_feature="p2", stride=4)

# The images and instances of shapes_train, with semantic labels.
dataloader.train.dataset.names = "shapes_semantic_train"
