"""From Mask R-CNN to Mask Scoring R-CNN."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.projects.mask_scoring_rcnn import MaskIoUHead, MaskScoringROIHeads


def use_mask_scoring(model, **head):
    """A MaskIoU head beside the mask head; `head` holds arguments of MaskIoUHead."""
    model.roi_heads._target_ = MaskScoringROIHeads
    model.roi_heads.mask_iou_head = L(MaskIoUHead)(
        input_shape="${..mask_head.input_shape}", num_classes="${..num_classes}", **head
    )
