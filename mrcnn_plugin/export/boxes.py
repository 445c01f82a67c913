"""Arithmetic on boxes, xyxy in the last axis, without conditions on their number."""

from __future__ import annotations

import torch
from torch import Tensor


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """(..., 4) with x in [0, width] and y in [0, height]."""
    x = boxes[..., 0::2].clamp(min=0).clamp(max=width)
    y = boxes[..., 1::2].clamp(min=0).clamp(max=height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def nonempty(boxes: Tensor, least: float = 0.0) -> Tensor:
    """(..., 4) to (...): whether both sides are longer than `least`."""
    return ((boxes[..., 2:] - boxes[..., :2]) > least).all(dim=-1)


def is_finite(values: Tensor) -> Tensor:
    """(..., n) to (...): whether all n are finite."""
    # abs(x) < inf is False for NaN as well, and an operator that every format has.
    return (values.abs() < torch.inf).all(dim=-1)


def with_image_index(boxes: Tensor) -> Tensor:
    """(K, 4) boxes of the only image to (K, 5), index first, as the RoI ops take them."""
    return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
