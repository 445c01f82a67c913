"""Resizing in a graph: sizes as Detectron2's ResizeShortestEdge chooses them, pixels as Pillow makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShortestEdge:
    """Scales the shorter side to `min_size` pixels, or less where the longer one would exceed `max_size`."""

    min_size: int
    max_size: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The new height and width, in whole numbers alone, which may be symbolic.

        Sides are rounded to the nearest pixel, as Detectron2's are.
        """
        shorter, longer = torch.sym_min(height, width), torch.sym_max(height, width)
        # The lesser of two scales gives the lesser of two rounded products.
        return tuple(
            torch.sym_min(
                (2 * side * self.min_size + shorter) // (2 * shorter),
                (2 * side * self.max_size + longer) // (2 * longer),
            )
            for side in (height, width)
        )


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bilinear resizing of 8-bit pictures, columns first, each step rounded to whole numbers.

    Where a side shrinks, the triangle spans all the pixels that fall into one, as Pillow's does. A value may
    differ from Pillow's by one: its weights have 22 bits, and Pillow 13 takes rows first where that is less
    work, which is seldom where the aspect is kept.

    Args:
        image: float (C, H, W) of whole numbers from 0 to 255.

    Returns:
        float (C, height, width) of whole numbers from 0 to 255.
    """
    image = torch.floor(image @ _weights(image.shape[2], width).T + 0.5).clamp(0, 255)
    return torch.floor(_weights(image.shape[1], height) @ image + 0.5).clamp(0, 255)


def _weights(before: int, after: int) -> Tensor:
    """(after, before): how much of each pixel goes into each new one; rows add up to 1."""
    positions = torch.arange(after, dtype=torch.float32) + 0.5
    # A 0-d tensor, as a graph has no numbers that are neither whole nor constant.
    scale = torch.full((), 1.0) * before / after
    distance = (torch.arange(before, dtype=torch.float32) + 0.5 - (positions * scale)[:, None]).abs()
    weights = (1 - distance / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)
