"""Features and boxes for RoIAlign's CUDA kernels, and moving them between layouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def layout_of(tensor: torch.Tensor) -> torch.memory_format:
    """Of (N, C, H, W): channels_last only where it is not contiguous as well."""
    last = tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def pyramid(
    sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    channels: int,
    batch: int = 2,
) -> list[torch.Tensor]:
    """Features of (batch, channels, *size) for each size, the same for the same number of levels."""
    generator = torch.Generator().manual_seed(len(sizes))
    return [
        torch.randn(batch, channels, *size, generator=generator)
        .to(dtype)
        .contiguous(memory_format=memory_format)
        for size in sizes
    ]


def make_boxes(count: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """(count, 5): inside, across the border, outside, of no size, reversed, far larger than the image."""
    generator = torch.Generator().manual_seed(seed)
    start = (torch.rand(count, 2, generator=generator) * 1.4 - 0.2) * torch.tensor([200.0, 160.0])
    size = 8 * 20 ** torch.rand(count, 2, generator=generator)
    size[:5] *= torch.tensor([[0.0], [-0.5], [0.01], [50.0], [1e5]])
    start[5] += 1000
    index = torch.randint(batch, (count, 1), generator=generator)
    return torch.cat([index, start, start + size], dim=1)
