"""A Hybrid Task Cascade on the built-in shapes, otherwise as the plain Mask R-CNN of the same name."""

from mrcnn_plugin import model_zoo

from ..common.htc import use_htc, use_semantic_branch

_plain = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

use_htc(model)
# The background and four shapes. Things are a quarter of the size of COCO's, so the branch is on the finest
# level, as its anchors are.
use_semantic_branch(model, num_classes=5, fused_feature="p2", stride=4)

# The images and instances of shapes_train, with semantic labels.
dataloader.train.dataset.names = "shapes_semantic_train"
