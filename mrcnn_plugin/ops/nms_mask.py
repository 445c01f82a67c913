"""Non-maximum suppression with a result of fixed size, for graphs whose shapes are known beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn_plugin.ops import library, reference


def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes greedy non-maximum suppression keeps, in each of B groups on its own.

    The groups are classes, or levels of a pyramid. The result is that of torchvision's `nms` of each group;
    unlike in `batched_nms` no group is shifted out of the others' way, so IoUs are exact whatever the number
    of groups.

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
    boxes, scores, device = boxes.detach(), scores.detach(), boxes.device.type
    if library.native("cpu" if device == "cuda" else device):
        return torch.ops.mrcnn_plugin.nms_mask(boxes, scores, float(iou_threshold))
    return reference.nms.nms_mask(boxes, scores, float(iou_threshold))


if library.STATUS["cpu"] is None:
    # Elsewhere, as in a compiled graph on CUDA, torchvision's op does it, group by group.
    torch.library.impl("mrcnn_plugin::nms_mask", "cuda")(reference.nms.nms_mask)

    @torch.library.register_fake("mrcnn_plugin::nms_mask")
    def _fake(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return scores.new_empty(scores.shape, dtype=torch.bool)
