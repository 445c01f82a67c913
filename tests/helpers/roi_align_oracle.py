"""RoIAlign as a loop over samples in float64, and random settings to compare it on."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np
import torch

from mrcnn_plugin.ops import roi_align

# Unit roundoff of the halves: values are rounded once, after sums in float32.
ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}


@dataclass
class Setting:
    shape: tuple[int, int, int, int]  # N, C, H, W
    boxes: np.ndarray  # [K, 5] float32
    scale: float
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool
    mode: str
    channels_last: bool

    def features(self, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        # Rounded to few bits, so that every dtype holds the same numbers.
        values = torch.randn(self.shape, generator=generator, dtype=torch.float64).mul(16).round().div(16)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return values.to(dtype).contiguous(memory_format=memory_format)

    def arguments(self) -> tuple:
        return self.output_size, self.scale, self.sampling_ratio, self.aligned


def random_setting(rng: np.random.Generator) -> Setting:
    shape = tuple(int(rng.integers(1, high)) for high in (4, 40, 40, 60))
    scale = float(rng.choice([1.0, 0.5, 0.25, 0.0625, 1 / 3]))
    return Setting(
        shape=shape,
        boxes=_random_boxes(rng, shape, scale),
        scale=scale,
        output_size=tuple(int(p) for p in rng.integers(1, 9, 2)),
        sampling_ratio=int(rng.integers(0, 4)),
        aligned=bool(rng.integers(2)),
        mode="max" if rng.random() < 0.25 else "avg",
        channels_last=bool(rng.integers(2)),
    )


def _random_boxes(rng: np.random.Generator, shape: tuple, scale: float) -> np.ndarray:
    """One to three boxes: ordinary, outside, degenerate, reversed, larger than the map."""
    count = int(rng.integers(1, 4))
    extent = np.array([shape[3], shape[2]]) / scale
    kind = rng.integers(0, 6, count)[:, None]
    start = rng.uniform(-0.3, 1.0, (count, 2)) * extent
    size = rng.uniform(0, 1.0, (count, 2)) * extent
    size = np.where(kind == 0, 0.0, size)
    size = np.where(kind == 1, -size * 0.3, size)
    start = np.where(kind == 2, start + 2 * extent, start)
    start, size = np.where(kind == 3, -10 * extent, start), np.where(kind == 3, 30 * extent, size)
    whole = np.concatenate([rng.integers(0, shape[0], (count, 1)), start, start + size], axis=1)
    return np.where(kind == 4, np.round(whole), whole).astype(np.float32)


def _axis(low, high, scale: float, bins: int, sampling_ratio: int, aligned: bool) -> np.ndarray:
    """Sample positions of an axis, (bins, samples), in feature pixels."""
    offset = 0.5 if aligned else 0.0
    start = float(low) * scale - offset
    length = float(high) * scale - offset - start
    # The number of samples is defined in the precision of the boxes.
    single = (high * np.float32(scale) - np.float32(offset)) - (low * np.float32(scale) - np.float32(offset))
    if not aligned:
        length, single = max(length, 1.0), max(single, np.float32(1))
    samples = (
        sampling_ratio if sampling_ratio > 0 else max(math.ceil(np.float32(single) / np.float32(bins)), 0)
    )
    bin_size = length / bins
    index = np.arange(samples)
    return np.array([start + b * bin_size + (index + 0.5) * bin_size / samples for b in range(bins)]).reshape(
        bins, samples
    )


def _taps(position: float, size: int) -> list[tuple[int, float]]:
    """Pixels and weights of a linear interpolation; none outside [-1, size]."""
    if position < -1 or position > size:
        return []
    position = min(max(position, 0.0), size - 1.0)
    low = int(position)
    fraction = position - low
    return [(low, 1 - fraction)] + ([(low + 1, fraction)] if fraction > 0 else [])


def roi_align_oracle(setting: Setting, features: np.ndarray, grad: np.ndarray | None = None):
    """Output (K, C, P, Q) and the gradient (N, C, H, W) of an output gradient: float64, sample by sample."""
    height, width = features.shape[2:]
    output = np.zeros((len(setting.boxes), features.shape[1], *setting.output_size))
    grad_features = np.zeros(features.shape)
    for batch, (k, p, q), taps in _bins(setting, height, width):
        bin_grad = None if grad is None else grad[k, :, p, q]
        pool = _pool_max if setting.mode == "max" else _pool_average
        output[k, :, p, q] = pool(features[batch], taps, bin_grad, grad_features[batch])
    return output, grad_features


def max_is_tied(setting: Setting, features: np.ndarray) -> np.ndarray:
    """Bins, bool (K, C, P, Q), where rounding decides which of several samples is the largest.

    Their gradient may go to any of them; samples of the same pixels and weights are no tie.
    """
    tied = np.zeros((len(setting.boxes), features.shape[1], *setting.output_size), dtype=bool)
    for batch, (k, p, q), taps in _bins(setting, *features.shape[2:]):
        distinct = list({tuple(sample): sample for sample in taps}.values())
        if len(distinct) > 1:
            values = np.sort([_sample(features[batch], sample) for sample in distinct], axis=0)
            tied[k, :, p, q] = values[-1] - values[-2] <= 1e-5 * np.maximum(1, np.abs(values[-1]))
    return tied


def _bins(setting: Setting, height: int, width: int):
    """Of every bin: image, (RoI, row, column), and the (row, column, weight) taps of each sample."""
    for k, (batch, x1, y1, x2, y2) in enumerate(setting.boxes):
        tail = (setting.sampling_ratio, setting.aligned)
        ys = _axis(y1, y2, setting.scale, setting.output_size[0], *tail)
        xs = _axis(x1, x2, setting.scale, setting.output_size[1], *tail)
        for p, q in np.ndindex(*setting.output_size):
            taps = [(_taps(y, height), _taps(x, width)) for y in ys[p] for x in xs[q]]
            taps = [[(i, j, wy * wx) for i, wy in ty for j, wx in tx] for ty, tx in taps]
            yield int(batch), (k, p, q), taps


def _sample(image: np.ndarray, taps: list) -> np.ndarray:
    value = np.zeros(len(image))
    for i, j, weight in taps:
        value += weight * image[:, i, j]
    return value


def _pool_average(image, samples, grad, grad_image) -> np.ndarray:
    count = max(len(samples), 1)
    total = np.zeros(len(image))
    for taps in samples:
        total += _sample(image, taps)
        for i, j, weight in taps if grad is not None else []:
            grad_image[:, i, j] += weight / count * grad
    return total / count


def _pool_max(image, samples, grad, grad_image) -> np.ndarray:
    if not samples:
        return np.zeros(len(image))
    values = np.array([_sample(image, taps) for taps in samples])
    best = values.argmax(axis=0)
    for c in range(len(image)) if grad is not None else []:
        for i, j, weight in samples[best[c]]:
            grad_image[c, i, j] += weight * grad[c]
    return values.max(axis=0)


def error_against_oracle(
    setting: Setting, dtype: torch.dtype, seed: int, backend=None, deterministic=(False,)
) -> float:
    """Largest error of output and gradient in units of what is allowed; with each kind of backward.

    backend: a helpers.cuda_backends.Backend, or None for the CPU kernels.
    """
    features = setting.features(dtype, seed)
    exact = features.double().numpy()
    shape = (len(setting.boxes), features.shape[1], *setting.output_size)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(16).round().div(16)
    if setting.mode == "max":
        grad[torch.from_numpy(max_is_tied(setting, exact))] = 0
    expected = roi_align_oracle(setting, exact, grad.double().numpy())
    device = backend.device if backend else "cpu"
    leaf = features.to(device).requires_grad_()
    boxes = torch.from_numpy(setting.boxes).to(device)
    worst = 0.0
    with backend.ops("random", seed) if backend else contextlib.nullcontext():
        output = roi_align(leaf, boxes, *setting.arguments(), mode=setting.mode)
        results = [(output.detach(), expected[0])]
        for kind in deterministic:
            torch.use_deterministic_algorithms(kind)
            (result,) = torch.autograd.grad(output, leaf, grad.to(device, dtype), retain_graph=True)
            torch.use_deterministic_algorithms(False)
            results.append((result, expected[1]))
    for got, want in results:
        allowed = 1e-5 * np.maximum(1, np.abs(want)) + ROUNDING[dtype] * np.abs(want)
        error = np.abs(got.cpu().double().numpy() - want) / allowed
        worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max(initial=0)))
    return worst
