"""Box, mask and keypoint branches together, on persons (paper Table 5)."""

from .keypoint_rcnn_fpn import model
from .mask_rcnn_fpn import model as _mask_rcnn

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads[_key] = _mask_rcnn.roi_heads[_key]
