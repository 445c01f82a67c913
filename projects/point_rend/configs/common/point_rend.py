"""From Mask R-CNN to PointRend."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from mrcnn_plugin.projects.point_rend import PointMaskHead, PointMaskROIHeads


def use_point_rend(model, dataloader, **head):
    """Masks by coarse head and point head; `head` holds arguments of PointMaskHead."""
    model.roi_heads.update(_target_=PointMaskROIHeads, mask_in_features=["p2"], mask_pooler=None)
    # Boxes as in inference, after regression, are what masks are refined in.
    model.roi_heads.train_on_pred_boxes = True
    model.roi_heads.mask_head = L(PointMaskHead)(
        input_shape=L("builtins.dict")(p2=L(ShapeSpec)(channels="${.....backbone.out_channels}", stride=4)),
        num_classes="${..num_classes}",
        **head,
    )
    # Labels are read at points of the image.
    dataloader.train.mapper.instance_mask_format = "bitmask"
