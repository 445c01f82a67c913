"""Custom ops: wrappers, fake kernels, autograd. Imports no Detectron2."""

from mrcnn_plugin.ops.encode_masks import encode_masks
from mrcnn_plugin.ops.paste_masks import paste_masks
from mrcnn_plugin.ops.roi_align import ROIAlign, multi_level_roi_align, roi_align

__all__ = [
    "ROIAlign",
    "encode_masks",
    "multi_level_roi_align",
    "paste_masks",
    "roi_align",
]
