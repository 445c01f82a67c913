"""Targets of a mask head: each RoI's part of its ground-truth mask, whatever form the ground truth has.

Axes: K RoIs with one ground-truth instance each, M x M cells of a target, H x W pixels of an image.
"""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from torch import Tensor

from mrcnn_plugin.ops import rasterize_polygons, roi_align

# Image-sized masks are cropped as floats, which takes four times their memory: no more than this at once.
_MAX_FLOATS = 64 * 2**20


def mask_targets(
    gt_masks: PolygonMasks | BitMasks,
    boxes: Tensor | Boxes,  # [K, 4]
    mask_size: int,
) -> Tensor:  # [K, M, M]
    """The intersection of each RoI with its ground-truth mask on M x M cells (Mask R-CNN, section 3.1).

    Equal to `gt_masks.crop_and_resize(boxes, mask_size)`: polygons are drawn into the box as pycocotools
    draws them; bitmasks (which is what Detectron2's mapper makes of RLE) are averaged by RoIAlign over as
    many samples as a cell has pixels, and a cell is inside at >= 0.5.

    Args:
        gt_masks: Detectron2's PolygonMasks or BitMasks of K instances, one per box.
        boxes: (K, 4) xyxy in image pixels.
        mask_size: M.

    Returns:
        (K, M, M) bool on the device of `boxes`.

    Raises:
        ValueError: another number of masks than boxes.
        TypeError: any other kind of ground truth; override `crop_and_resize` of a subclass of these two.
    """
    boxes = getattr(boxes, "tensor", boxes)
    if not isinstance(gt_masks, (PolygonMasks, BitMasks)):
        raise TypeError(f"gt_masks must be PolygonMasks or BitMasks, got {type(gt_masks).__name__}")
    if len(gt_masks) != len(boxes):
        raise ValueError(f"gt_masks must hold one mask per box, got {len(gt_masks)} for {len(boxes)} boxes")
    if type(gt_masks) is PolygonMasks:
        return rasterize_polygons(gt_masks.polygons, boxes, mask_size)
    if type(gt_masks) is BitMasks:
        return _crop_bitmasks(gt_masks.tensor, boxes, mask_size)
    return gt_masks.crop_and_resize(boxes, mask_size).to(boxes.device)


def _crop_bitmasks(masks: Tensor, boxes: Tensor, mask_size: int) -> Tensor:
    """(K, H, W) bool and (K, 4) to (K, M, M) bool, on the device of `boxes`."""
    targets = torch.empty((len(masks), mask_size, mask_size), dtype=torch.bool, device=masks.device)
    boxes_there = boxes.to(masks.device, torch.float32)
    step = max(1, _MAX_FLOATS // max(1, masks.shape[1] * masks.shape[2]))
    for start in range(0, len(masks), step):
        crop = masks[start : start + step, None].float()
        index = torch.arange(len(crop), device=masks.device, dtype=torch.float32)
        rois = torch.cat([index[:, None], boxes_there[start : start + step]], dim=1)
        average = roi_align(crop, rois, mask_size, spatial_scale=1.0, sampling_ratio=0, aligned=True)
        targets[start : start + step] = average[:, 0] >= 0.5
    return targets.to(boxes.device)
