"""Ground truth at points."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks
from torch import Tensor


def point_labels(gt_masks: BitMasks, points: Tensor) -> Tensor:
    """Ground-truth masks at points of any position, by bilinear interpolation between pixel centres.

    Equal to `grid_sample` of the masks as floats with zeros around them, but reads four pixels per point and
    leaves the masks as they are.

    Args:
        gt_masks: K masks of H x W pixels.
        points: (K, P, 2), x and y in image pixels.

    Returns:
        (K, P) float32 in [0, 1], on the device of `points`.

    Raises:
        ValueError: polygons; or another number of masks than rows of points.
    """
    if not isinstance(gt_masks, BitMasks):
        raise ValueError(
            f"gt_masks must be BitMasks to be read at points, got {type(gt_masks).__name__}: "
            'set the mapper\'s instance_mask_format="bitmask" (INPUT.MASK_FORMAT in YAML)'
        )
    masks = gt_masks.tensor
    if len(masks) != len(points):
        raise ValueError(f"points must have one row per mask, {len(masks)}, got {len(points)}")
    height, width = masks.shape[1:]
    # Pixel (0, 0) has its centre at (0.5, 0.5).
    xy = points.to(masks.device, torch.float32) - 0.5
    corner = xy.floor()
    right, below = (xy - corner).unbind(dim=2)
    columns, rows = corner.long().unbind(dim=2)
    index = torch.arange(len(masks), device=masks.device)[:, None]
    labels = torch.zeros_like(right)
    for dy, weight_y in ((0, 1 - below), (1, below)):
        for dx, weight_x in ((0, 1 - right), (1, right)):
            y, x = rows + dy, columns + dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            value = masks[index, y.clamp(0, height - 1), x.clamp(0, width - 1)]
            labels += weight_y * weight_x * (value.bool() & inside)
    return labels.to(points.device)
