"""Non-maximum suppression of many groups of boxes in one call, of which the host need not know the result."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn_plugin.ops import library, reference


def nms_segments(boxes: Tensor, offsets: Tensor, iou_threshold: float) -> Tensor:
    """Marks the boxes that no better one of their segment overlaps too much.

    In each segment boxes are visited in order; one that is still there removes those after it whose IoU
    with it is above the threshold. So `keep` has what `torchvision.ops.nms` returns for each segment, but
    as a mask of fixed size: on CUDA nothing waits. A box without area is kept, and removes none.

    Args:
        boxes: (K, 4) float32 xyxy, in any unit; segment after segment, by falling score in each.
        offsets: (S + 1,) int64, where each of S segments starts, and the end. Boxes beyond the end belong
            to none. On the CPU offsets that fall, or leave [0, K], are an error; on CUDA nothing is read
            out of bounds.
        iou_threshold: in [0, 1].

    Returns:
        (K,) bool on the device of `boxes`: True for the boxes that are kept.

    Raises:
        ValueError: wrong shape.
        TypeError: wrong dtype.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (K, 4), got {tuple(boxes.shape)}")
    if boxes.dtype != torch.float32:
        raise TypeError(f"boxes must be float32, got {boxes.dtype}; use boxes.float()")
    if offsets.dim() != 1 or offsets.shape[0] < 1:
        raise ValueError(f"offsets must have shape (S + 1,), got {tuple(offsets.shape)}")
    if offsets.dtype != torch.int64:
        raise TypeError(f"offsets must be int64, got {offsets.dtype}; use offsets.long()")
    boxes = boxes.detach()
    if library.native(boxes.device.type):
        return torch.ops.mrcnn_plugin.nms_segments(boxes, offsets, float(iou_threshold))
    return reference.nms.nms_segments(boxes, offsets, float(iou_threshold))


def grouped_nms(boxes: Tensor, groups: Tensor, num_groups: int, iou_threshold: float) -> Tensor:
    """`nms_segments` for boxes in the order of their scores alone, whose groups are mixed.

    Args:
        boxes: (K, 4) float32 xyxy, by falling score.
        groups: (K,) int64; boxes of different groups do not compete, and those of a group outside
            [0, num_groups) are not kept.
        num_groups: how many there are.
        iou_threshold: in [0, 1].

    Returns:
        (K,) bool, in the order of `boxes`.
    """
    groups = torch.where(groups < 0, num_groups, groups)
    groups, order = groups.sort(stable=True)
    starts = torch.searchsorted(groups, torch.arange(num_groups + 1, device=groups.device))
    return torch.empty_like(order, dtype=torch.bool).scatter_(
        0, order, nms_segments(boxes[order], starts, iou_threshold)
    )


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::nms_segments")
    def _fake(boxes: Tensor, offsets: Tensor, iou_threshold: float) -> Tensor:
        return boxes.new_empty((boxes.shape[0],), dtype=torch.bool)
