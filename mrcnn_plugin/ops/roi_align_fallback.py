"""RoIAlign where csrc was not built: torchvision's op for averages, the PyTorch reference for the rest.

torchvision's op reads out of bounds for a batch index that is none, allocates an entry per sample, and takes
features and boxes of one dtype. So it is given checked values only, and a box that it cannot take is pooled
by the reference.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from .reference import roi_align as reference

# As in csrc/roi_align/checks.h.
_MAX_SAMPLING_RATIO = 4096


def multi_level_roi_align(
    features: list[Tensor],  # L x [N, C, H_l, W_l]
    boxes: Tensor,  # [K, 5]
    scales: list[float],
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    canonical_box_size: float,
    canonical_level: int,
    aligned: bool,
    max_pool: bool,
    levels: Tensor | None = None,  # [K]
) -> Tensor:  # [K, C, P, Q]
    """The arguments of ``torch.ops.mrcnn_plugin.multi_level_roi_align``; differentiable in the features.

    Raises ValueError for what the native op refuses. As there, values are looked at on the CPU only; on
    another device a RoI of an impossible box, batch index or level is NaN.
    """
    _check_sizes(features, scales, pooled_height, pooled_width)
    if sampling_ratio > _MAX_SAMPLING_RATIO:
        raise ValueError(f"sampling_ratio must be at most {_MAX_SAMPLING_RATIO}, got {sampling_ratio}")
    if levels is None:
        levels = reference.assign_levels(boxes[:, 1:], scales, canonical_box_size, canonical_level)
    valid = reference.valid_rois(boxes, levels, features)
    if boxes.device.type == "cpu":
        reference.check_values(boxes, levels, features)
    else:
        boxes, levels = boxes.where(valid[:, None], 0.0), levels.where(valid, 0)
    # The dtype of the boxes decides how many samples a bin has, and torchvision has one for everything.
    if max_pool or (features[0].dtype == torch.float64 and boxes.dtype != torch.float64):
        fits = torch.zeros_like(valid)
    else:
        fits = _fits_torchvision(features, boxes, scales, levels)

    output = features[0].new_zeros(len(boxes), features[0].shape[1], pooled_height, pooled_width)
    for level, (feature, scale) in enumerate(zip(features, scales)):
        # Also where no box is pooled from this level: its gradient is then 0, and not absent.
        index = (fits & (levels == level)).nonzero().squeeze(1)
        wide = feature if feature.dtype == torch.float64 else feature.float()
        pooled = torchvision.ops.roi_align(
            wide, boxes[index].to(wide.dtype), (pooled_height, pooled_width), scale, sampling_ratio, aligned
        )
        output = output.index_copy(0, index, pooled.to(output.dtype))
    index = (~fits).nonzero().squeeze(1)
    if len(index):
        options = (sampling_ratio, canonical_box_size, canonical_level, aligned, max_pool, levels[index])
        pooled = reference.multi_level_roi_align(
            features, boxes[index], scales, pooled_height, pooled_width, *options
        )
        output = output.index_copy(0, index, pooled)
    if boxes.device.type != "cpu":
        output = output.masked_fill(~valid[:, None, None, None], torch.nan)
    return reference.in_layout_of(features[0], output)


def _check_sizes(features: list[Tensor], scales: list[float], pooled_height: int, pooled_width: int) -> None:
    for level, (feature, scale) in enumerate(zip(features, scales)):
        if min(feature.shape[2:]) < 1:
            raise ValueError(f"features[{level}] must have 1 <= H, W < 2^31, got {tuple(feature.shape[2:])}")
        if not 0 < scale < 1e30:
            raise ValueError(f"scales[{level}] must be positive, got {scale}")
    if not (0 < pooled_height <= 1 << 20 and 0 < pooled_width <= 1 << 20):
        raise ValueError(f"output_size must be between 1 and 2^20, got {(pooled_height, pooled_width)}")


def _fits_torchvision(features: list[Tensor], boxes: Tensor, scales: list[float], levels: Tensor) -> Tensor:
    """Bool (K,): x1 <= x2, y1 <= y2, and no side further from the map than the map's own size and 64 pixels.

    For a reversed box torchvision asks for a negative amount of memory, for one of 1e9 pixels for 1e16
    entries; and a coordinate that overflows float32 indexes the map at random.
    """
    sides = boxes.new_tensor([[feature.shape[3], feature.shape[2]] for feature in features])[levels]
    corners = (boxes[:, 1:] * boxes.new_tensor(scales)[levels, None]).unflatten(1, (2, 2))
    low, high = corners[:, 0], corners[:, 1]
    ordered = (low <= high) & (low > -sides - 64) & (high < 2 * sides + 64)
    return ordered.all(dim=1)
