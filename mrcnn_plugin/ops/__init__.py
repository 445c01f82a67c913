"""Custom ops: wrappers, fake kernels, autograd. Imports no Detectron2."""

from mrcnn_plugin.ops import batching
from mrcnn_plugin.ops.encode_masks import encode_masks
from mrcnn_plugin.ops.heatmaps_to_keypoints import heatmaps_to_keypoints
from mrcnn_plugin.ops.nms import grouped_nms, nms_segments
from mrcnn_plugin.ops.nms_mask import nms_mask
from mrcnn_plugin.ops.paste_masks import paste_masks
from mrcnn_plugin.ops.rasterize_polygons import PackedPolygons, pack_polygons, rasterize_polygons
from mrcnn_plugin.ops.roi_align import ROIAlign, multi_level_roi_align, roi_align
from mrcnn_plugin.ops.roi_pool import ROIPool, ROIWarp
from mrcnn_plugin.ops.split_convolution import has_matrix_tiles, split_conv2d, split_weight
from mrcnn_plugin.ops.winograd import (
    winograd_conv2d,
    winograd_filter,
    winograd_weight,
    winograd_weight_gradient,
)

__all__ = [
    "PackedPolygons",
    "ROIAlign",
    "ROIPool",
    "ROIWarp",
    "encode_masks",
    "grouped_nms",
    "has_matrix_tiles",
    "heatmaps_to_keypoints",
    "multi_level_roi_align",
    "nms_mask",
    "nms_segments",
    "pack_polygons",
    "paste_masks",
    "rasterize_polygons",
    "roi_align",
    "split_conv2d",
    "split_weight",
    "winograd_conv2d",
    "winograd_filter",
    "winograd_weight",
    "winograd_weight_gradient",
]

batching.register()
