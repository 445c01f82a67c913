"""Faster R-CNN with RoIAlign on a feature pyramid: Mask R-CNN without its mask branch (paper Table 3)."""

from .mask_rcnn_fpn import model

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_key)
