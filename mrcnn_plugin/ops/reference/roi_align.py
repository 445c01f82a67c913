"""RoIAlign in plain PyTorch: a loop over RoIs, each pooled by two small dense matrices.

The matrices hold zeros for the pixels that a bin does not read; those must not count even where such a pixel
is NaN, of which 0 times is NaN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
    """The arguments of ``torch.ops.mrcnn_plugin.multi_level_roi_align``; differentiable in the features."""
    if levels is None:
        levels = assign_levels(boxes[:, 1:], scales, canonical_box_size, canonical_level)
    check_values(boxes, levels, features)
    pooled = []
    for roi, level in zip(boxes, levels.tolist()):
        _, _, height, width = features[level].shape
        window = features[level][int(roi[0])]
        ys = _bins(roi[2], roi[4], scales[level], pooled_height, sampling_ratio, aligned, height)
        xs = _bins(roi[1], roi[3], scales[level], pooled_width, sampling_ratio, aligned, width)
        pooled.append(_max(window, ys, xs) if max_pool else _average(window, ys, xs))
    if not pooled:
        zero = torch.stack([feature.sum() * 0 for feature in features]).sum()
        return zero.expand(0, features[0].shape[1], pooled_height, pooled_width).clone()
    return in_layout_of(features[0], torch.stack(pooled).to(features[0].dtype))


def in_layout_of(feature: Tensor, output: Tensor) -> Tensor:
    """`output` in torch.channels_last where `feature` is, and not also plain NCHW."""
    if feature.is_contiguous(memory_format=torch.channels_last) and not feature.is_contiguous():
        return output.contiguous(memory_format=torch.channels_last)
    return output


def assign_levels(
    boxes: Tensor, scales: list[float], canonical_box_size: float, canonical_level: int
) -> Tensor:
    """Offset into `scales` for each box (K, 4) in image pixels: Feature Pyramid Networks, Eq. 1."""
    if len(scales) == 1:
        return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = (canonical_level + torch.log2(sizes / canonical_box_size + 1e-8)).floor()
    min_level = round(-math.log2(scales[0]))
    levels = levels.nan_to_num(nan=min_level).clamp(min_level, min_level + len(scales) - 1)
    return levels.to(torch.int64) - min_level


def valid_rois(boxes: Tensor, levels: Tensor, features: list[Tensor]) -> Tensor:
    """Bool (K,): whether boxes (K, 5) are finite, and their batch index and level (K,) exist."""
    image, batch_size = boxes[:, 0], features[0].shape[0]
    if batch_size == 0:
        # An index between -1 and 0 is cut off to 0, which this batch does not have.
        return torch.zeros_like(image, dtype=torch.bool)
    exists = (image > -1) & (image < batch_size) & (levels >= 0) & (levels < len(features))
    return torch.isfinite(boxes[:, 1:]).all(dim=1) & exists


def check_values(boxes: Tensor, levels: Tensor, features: list[Tensor]) -> None:
    """Raises ValueError that names the first RoI which `valid_rois` finds fault with."""
    wrong = (~valid_rois(boxes, levels, features)).nonzero().flatten()
    if not len(wrong):
        return
    roi, image, level = int(wrong[0]), float(boxes[wrong[0], 0]), int(levels[wrong[0]])
    batch_size = features[0].shape[0]
    if batch_size == 0 or not -1 < image < batch_size:
        raise ValueError(f"boxes[{roi}, 0], the batch index, must be in [0, {batch_size}), got {image:g}")
    if not 0 <= level < len(features):
        raise ValueError(f"levels[{roi}] must be in [0, {len(features)}), got {level}")
    raise ValueError(
        f"boxes[{roi}] must be finite, got {tuple(boxes[roi, 1:].tolist())}; drop such boxes before pooling"
    )


class _Samples(NamedTuple):
    positions: Tensor  # [bins, listed samples], feature pixels
    total: int  # samples of a bin, listed or not
    size: int  # pixels of the map

    def weights(self, dtype: torch.dtype) -> Tensor:
        """(bins, samples, size): the bilinear weights of each sample; all 0 outside [-1, size]."""
        inside = (self.positions >= -1) & (self.positions <= self.size)
        clamped = self.positions.clamp(0, self.size - 1)
        low = clamped.floor().long()
        high = (low + 1).clamp(max=self.size - 1)
        fraction = clamped - low
        weights = fraction.new_zeros(*fraction.shape, self.size)
        weights.scatter_add_(2, low[..., None], ((1 - fraction) * inside)[..., None])
        weights.scatter_add_(2, high[..., None], (fraction * inside)[..., None])
        return weights.to(dtype)


def _bins(
    low: Tensor, high: Tensor, scale: float, bins: int, sampling_ratio: int, aligned: bool, size: int
) -> _Samples:
    """Samples along one axis of a RoI; of astronomically many, those that can meet the map."""
    offset = 0.5 if aligned else 0.0
    start = float(low) * scale - offset
    length = float(high) * scale - offset - start
    if sampling_ratio > 0:
        samples = sampling_ratio
    else:
        # In the boxes' own precision, as torchvision counts.
        extent = (high * scale - offset) - (low * scale - offset)
        extent = extent if aligned else extent.clamp(min=1)
        # An infinite box minus itself is not a number, and has no samples.
        samples = int(min(max(float((extent / bins).ceil().nan_to_num(0)), 0), 1e15))
    length = length if aligned else max(length, 1.0)
    bin_size = length / bins
    if samples == 0 or not math.isfinite(bin_size):
        empty = torch.zeros(bins, 0, dtype=torch.float64, device=low.device)
        return _Samples(empty, samples, size)
    begins = start + bin_size * torch.arange(bins, dtype=torch.float64, device=low.device)
    first, count = torch.zeros_like(begins), samples
    spacing = bin_size / samples
    if samples > size + 4 and spacing > 0:
        count = min(samples, int((size + 1) / spacing) + 4)
        first = ((-1 - begins) / spacing - 1.5).floor().clamp(0, samples - count)
    index = first[:, None] + torch.arange(count, dtype=torch.float64, device=low.device)
    positions = begins[:, None] + (index + 0.5) * bin_size / samples
    return _Samples(positions, samples, size)


class _FiniteOnly(torch.autograd.Function):
    """0 for what is not finite, and the gradient as if it were: an average's does not depend on the pixel."""

    @staticmethod
    def forward(ctx: Any, window: Tensor) -> Tensor:
        return window.nan_to_num(0.0, 0.0, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def _contaminated(pooled: Tensor, window: Tensor, equation: str, rows: Tensor, columns: Tensor) -> Tensor:
    """`pooled` of finite pixels; NaN where one that is not has a weight other than 0."""
    bad = ~torch.isfinite(window.detach())
    if not bad.any():
        return pooled
    read = torch.einsum(equation, (rows != 0).float(), bad.float(), (columns != 0).float()) > 0
    return pooled + torch.zeros_like(pooled).masked_fill(read, math.nan)


def _average(window: Tensor, ys: _Samples, xs: _Samples) -> Tensor:
    """(C, H, W) to (C, P, Q): the sum over samples of A_y F A_x^T over their number."""
    window = window if window.dtype == torch.float64 else window.float()
    rows = ys.weights(torch.float64).sum(1) / max(ys.total, 1)
    columns = xs.weights(torch.float64).sum(1) / max(xs.total, 1)
    pooled = rows.to(window.dtype) @ _FiniteOnly.apply(window) @ columns.to(window.dtype).T
    return _contaminated(pooled, window, "ph,chw,qw->cpq", rows, columns)


def _max(window: Tensor, ys: _Samples, xs: _Samples) -> Tensor:
    """(C, H, W) to (C, P, Q): the largest sample of each bin, those outside the map being 0."""
    window = window if window.dtype == torch.float64 else window.float()
    rows, columns = ys.weights(window.dtype), xs.weights(window.dtype)
    if rows.shape[1] == 0 or columns.shape[1] == 0:
        return window.sum() * 0 + window.new_zeros(len(window), len(rows), len(columns))
    equation = "pih,chw,qjw->cpqij"
    samples = torch.einsum(equation, rows, _FiniteOnly.apply(window), columns)
    samples = _contaminated(samples, window, equation, rows, columns).flatten(3)
    if rows.shape[1] < ys.total or columns.shape[1] < xs.total:
        samples = torch.cat([samples, torch.zeros_like(samples[..., :1])], dim=3)
    return samples.max(dim=3).values
