"""timm's networks in place of the ResNet of a Mask R-CNN with FPN."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.modeling import TimmBackbone, timm_normalization


def use_timm(model, dataloader, *, name, **arguments):
    """timm's model `name` below the FPN, and images as its weights expect them; changes both in place.

    `arguments` are those of `TimmBackbone`. The FPN stands on res2 to res5.
    """
    model.backbone.bottom_up = L(TimmBackbone)(
        name=name, out_features=["res2", "res3", "res4", "res5"], **arguments
    )
    model.update(timm_normalization(name))
    dataloader.train.mapper.image_format = model.input_format
