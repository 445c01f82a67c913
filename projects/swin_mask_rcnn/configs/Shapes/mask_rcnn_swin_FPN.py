"""A small Swin Transformer on the built-in shapes, otherwise as the plain Mask R-CNN."""

from mrcnn_plugin import model_zoo

from ..common.swin import use_swin

_plain = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
dataloader, lr_multiplier, model = _plain.dataloader, _plain.lr_multiplier, _plain.model
optimizer, train = _plain.optimizer, _plain.train

# About as many multiply-adds as ResNet-18; nothing is dropped in so few iterations.
use_swin(model, embed_dim=48, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16], drop_path_rate=0.0)
optimizer.params.overrides = dict(relative_position_bias_table=dict(weight_decay=0.0))
