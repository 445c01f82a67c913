"""Sizes that are computed while a graph runs."""

from __future__ import annotations

from typing import Any

import torch

# Of a side, in pixels or windows.
_LONGEST = 2**14


def ceil_div(size: int, divisor: int) -> int:
    """How many times `divisor` it takes to reach a size."""
    # Of positive numbers alone: ONNX divides whole numbers towards zero.
    return (size + divisor - 1) // divisor


def computed(size: int, least: int = 1) -> int:
    """A size that a graph knows only at run time, as a number of its own.

    Formulas of formulas, carried through the sizes of all maps, would take torch.export minutes to simplify.

    Args:
        size: symbolic; a plain number stays what it is.
        least: it is not smaller than this, nor larger than 2**14.
    """
    if isinstance(size, int):
        return size
    value: Any = torch.full((), size, dtype=torch.int64).item()
    torch._check(value >= least)
    torch._check(value <= _LONGEST)
    return value
