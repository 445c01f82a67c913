"""Non-maximum suppression with a result of fixed size, for graphs whose shapes are known beforehand."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor


def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes greedy non-maximum suppression keeps, in each of B groups on its own.

    The groups are classes, or levels of a pyramid. torchvision's `nms` decides; unlike `batched_nms` no group
    is shifted out of the others' way, so IoUs are exact whatever the number of groups.

    Args:
        boxes: (B, K, 4) float32 xyxy.
        scores: (B, K) float32; a box of score -inf does not take part and is not kept.
        iou_threshold: a box is dropped where its IoU with a kept one of higher score is above this.

    Returns:
        (B, K) bool; carries no gradient.

    Raises:
        ValueError: wrong shape.
        TypeError: wrong dtype.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must have shape (B, K, 4), got {tuple(boxes.shape)}")
    if scores.dim() != 2 or scores.shape != boxes.shape[:2]:
        expected = tuple(boxes.shape[:2])
        raise ValueError(f"scores must have shape (B, K) = {expected}, got {tuple(scores.shape)}")
    for name, value in (("boxes", boxes), ("scores", scores)):
        if value.dtype != torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}; use {name}.float()")
    return torch.ops.mrcnn_plugin.nms_mask(boxes.detach(), scores.detach(), float(iou_threshold))


@torch.library.custom_op("mrcnn_plugin::nms_mask", mutates_args=())
def _nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    taking_part = scores > -torch.inf
    keep = torch.zeros_like(taking_part)
    for group in taking_part.any(dim=1).nonzero()[:, 0].tolist():
        index = taking_part[group].nonzero()[:, 0]
        kept = torchvision.ops.nms(boxes[group, index], scores[group, index], iou_threshold)
        keep[group, index[kept]] = True
    return keep


@_nms_mask.register_fake
def _fake(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)
