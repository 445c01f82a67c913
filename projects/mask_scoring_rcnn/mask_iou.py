"""Targets and loss of the MaskIoU head (paper section 3.3): IoU of a predicted mask with the whole object.

Axes: K RoIs with one ground-truth instance each, M x M cells of a predicted mask.
"""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from torch import Tensor

from mrcnn_plugin.modeling.mask_targets import mask_targets

# Side of the grid on which an object's area is measured: twice that of the predicted mask.
_GRID = 56


def area_ratio(
    gt_masks: PolygonMasks | BitMasks,
    gt_boxes: Boxes,  # [R, 4]
    boxes: Boxes,  # [R, 4]
) -> Tensor:  # [R]
    """The part of each ground-truth mask's area that lies within its RoI.

    The mask is drawn on a grid over its own box, and each cell counts with the part of it that the RoI
    covers: the ratio is exactly 1 where the RoI holds the object, whatever its size and resolution.

    Args:
        gt_masks: of K instances.
        gt_boxes: around these masks, xyxy in image pixels.
        boxes: RoIs, xyxy in image pixels.

    Returns:
        (K,) float32 in [0, 1]; 1 for a mask without area.
    """
    objects, rois = gt_boxes.tensor.float(), boxes.tensor.float()
    cells = mask_targets(gt_masks, objects, _GRID)
    columns = _covered(objects[:, 0], objects[:, 2], rois[:, 0], rois[:, 2])
    rows = _covered(objects[:, 1], objects[:, 3], rois[:, 1], rois[:, 3])
    # A product of matrices would be of low precision under autocast.
    inside = (cells * rows[:, :, None] * columns[:, None, :]).sum(dim=(1, 2))
    total = cells.sum(dim=(1, 2))
    return torch.where(total > 0, inside / total.clamp(min=1), 1.0)


def _covered(start: Tensor, end: Tensor, roi_start: Tensor, roi_end: Tensor) -> Tensor:
    """The covered part of each of the grid's intervals between start and end: (K,) each -> (K, _GRID)."""
    step = ((end - start) / _GRID).clamp(min=1e-6)[:, None]
    # In units of one interval, so that what is covered wholly comes to exactly 1.
    first, last = (roi_start - start)[:, None] / step, (roi_end - start)[:, None] / step
    index = torch.arange(_GRID, device=start.device)
    return (torch.minimum(last - index, step.new_ones(())) - (first - index).clamp(min=0)).clamp(min=0)


def mask_iou_targets(
    masks: Tensor,  # [R, M, M]
    targets: Tensor,  # [R, M, M]
    ratio: Tensor,  # [R]
) -> Tensor:  # [R]
    """IoU of binary predicted masks with the full ground-truth masks, beyond the RoI too.

    |P and G| / (|P| + |G| / ratio - |P and G|), areas in cells of the RoI: a predicted mask ends at its RoI,
    where `targets` end too, so the object's full area is taken to be |G| / ratio.

    Args:
        masks: bool, predicted.
        targets: bool, ground truth within the RoIs.
        ratio: `area_ratio` of the ground truth.

    Returns:
        (K,) float32 in [0, 1].
    """
    overlap = (masks & targets).sum(dim=(1, 2))
    full = targets.sum(dim=(1, 2)) / ratio.clamp(min=1e-6)
    union = masks.sum(dim=(1, 2)) + full - overlap
    return overlap / union.clamp(min=1)


def mask_iou_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """L2 loss, half of the mean squared error, over the masks that touch their object at all.

    Args:
        predicted: (K,) IoU of the ground-truth class.
        targets: (K,) from `mask_iou_targets`; where 0, the RoI is left out, as in the authors' code.

    Returns:
        Scalar; 0, still connected to the graph, where nothing is left.
    """
    error = torch.where(targets > 0, predicted.float() - targets, 0.0)
    return 0.5 * error.square().sum() / (targets > 0).sum().clamp(min=1)
