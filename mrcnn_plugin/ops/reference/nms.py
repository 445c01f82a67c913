"""Plain PyTorch twins of `nms_segments` and `nms_mask`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torchvision.ops import nms


def nms_segments(boxes: Tensor, offsets: Tensor, iou_threshold: float) -> Tensor:
    """(K, 4) float32 and (S + 1,) int64 -> (K,) bool; see `mrcnn_plugin.ops.nms_segments`."""
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    ends = offsets.tolist()
    for begin, end in pairwise(ends):
        falling = torch.arange(end - begin, 0, -1, dtype=torch.float32, device=boxes.device)
        keep[begin + nms(boxes[begin:end], falling, iou_threshold)] = True
    return keep


def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """(B, K, 4) and (B, K) float32 -> (B, K) bool; see `mrcnn_plugin.ops.nms_mask`."""
    taking_part = scores > -torch.inf
    keep = torch.zeros_like(taking_part)
    for group in taking_part.any(dim=1).nonzero()[:, 0].tolist():
        index = taking_part[group].nonzero()[:, 0]
        kept = nms(boxes[group, index], scores[group, index], iou_threshold)
        keep[group, index[kept]] = True
    return keep
