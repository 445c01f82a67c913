"""Heatmaps and RoIs that the tests of heatmaps_to_keypoints share."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def person_rois(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    height = torch.rand(n, generator=generator) * 150 + 40
    width = height * (0.3 + 0.5 * torch.rand(n, generator=generator))
    corner = torch.rand(n, 2, generator=generator) * 400
    return torch.stack([corner[:, 0], corner[:, 1], corner[:, 0] + width, corner[:, 1] + height], dim=1)


def noise(n: int, k: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, height, width, generator=torch.Generator().manual_seed(seed))


def heatmaps(kind: str, n: int = 6, k: int = 3, size: int = 56) -> torch.Tensor:
    """Maps of every shape of surface: rough, smooth, one sharp peak, plateaus, peaks on the border, one far
    from zero."""
    if kind == "smooth":
        return F.interpolate(noise(n, k, 6, 6), size=(size, size), mode="bicubic")
    if kind == "peaked":
        centre = torch.rand(n, k, 2, generator=torch.Generator().manual_seed(1)) * size
        axis = torch.arange(size)
        y, x = axis - centre[..., :1], axis - centre[..., 1:]
        return 8 * torch.exp(-(y[..., None] ** 2 + x[..., None, :] ** 2) / 12) + 0.3 * noise(n, k, size, size)
    if kind == "plateaus":
        return noise(n, k, size, size).mul(2).round()
    if kind == "border":
        maps = noise(n, k, size, size)
        maps[..., -1] += 4
        return maps
    return noise(n, k, size, size) + (1000 if kind == "offset" else 0)


KINDS = ["rough", "smooth", "peaked", "plateaus", "border", "offset"]
