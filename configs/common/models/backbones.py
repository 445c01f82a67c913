"""Deeper backbones in place of the ResNet-50 that `parts.resnet` describes, below an FPN or alone."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.modeling.backbone import resnet_stages

from ..data.constants import imagenet


def _resnet(model):
    return model.backbone.bottom_up if "bottom_up" in model.backbone else model.backbone


def use_resnet_101(model, train):
    """The same as ResNet-50 but for 17 more blocks in res4."""
    _resnet(model).stages.depth = 101
    train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"


def use_resnext_101(model, train, *, num_groups, width_per_group, weights):
    """ResNeXt-101: grouped 3x3 convolutions, which hold the stride; its weights expect unit deviation."""
    _resnet(model).stages = L(resnet_stages)(
        depth=101,
        norm="FrozenBN",
        stride_in_1x1=False,
        num_groups=num_groups,
        width_per_group=width_per_group,
    )
    model.pixel_std = imagenet.bgr_std
    train.init_checkpoint = weights


def use_resnext_101_32x8d(model, train):
    """ResNeXt-101-32x8d, Detectron2's X101, with its weights."""
    weights = "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl"
    use_resnext_101(model, train, num_groups=32, width_per_group=8, weights=weights)
