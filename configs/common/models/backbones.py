"""Deeper backbones for the ResNet that `parts.resnet` describes; each changes a config in place."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.modeling.backbone import resnet_stages

from ..data.constants import imagenet


def use_resnet_101(resnet, train):
    """The same as ResNet-50 but for 17 more blocks in res4."""
    resnet.stages.depth = 101
    train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"


def use_resnext_101(resnet, model, train, num_groups, width_per_group, weights):
    """ResNeXt-101: grouped 3x3 convolutions, which hold the stride; its weights expect unit deviation."""
    resnet.stages = L(resnet_stages)(
        depth=101,
        norm="FrozenBN",
        stride_in_1x1=False,
        num_groups=num_groups,
        width_per_group=width_per_group,
    )
    model.pixel_std = imagenet.bgr_std
    train.init_checkpoint = weights


def use_resnext_101_32x8d(resnet, model, train):
    """ResNeXt-101-32x8d, Detectron2's X101, with its weights."""
    weights = "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl"
    use_resnext_101(resnet, model, train, num_groups=32, width_per_group=8, weights=weights)
