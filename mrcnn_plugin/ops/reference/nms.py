"""Plain PyTorch twin of `nms_segments`."""

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
