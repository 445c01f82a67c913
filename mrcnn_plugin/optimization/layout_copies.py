"""Counts the copies that a change of memory format costs, those that operators make inside too."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They write what they read in another order, if the formats differ.
_COPIES = {"clone", "copy_", "_to_copy", "contiguous", "_reshape_copy"}
# These bring an input into the format that they compute in, without an operator that a mode would see.
_INSIDE = {"convolution", "_convolution_pointwise", "_convolution_pointwise_", "multi_level_roi_align"}
_INSIDE |= {"cat", "heatmaps_to_keypoints", "paste_masks", "encode_masks"}


class LayoutCopies(TorchDispatchMode):
    """A context in which copies of feature maps and RoI features into another memory format are counted.

    A copy counts that has at least `least` elements and more than one channel and pixel: explicit ones, and
    those within convolutions, RoIAlign and concatenation, told from the strides of their inputs.

    Attributes:
        counts: operator and line of code -> number of copies.
        elements: numbers copied, in all.
    """

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least
        self.counts: Counter[str] = Counter()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if name in _COPIES:
            source = args[1] if name == "copy_" else args[0]
            if _other_format(source, result):
                self._count(name, source)
        elif name in _INSIDE:
            maps = [x for x in tree_leaves(args) if isinstance(x, Tensor) and _format(x) is not None]
            formats = {_format(x) for x in maps}
            if len(formats) > 1 or _format(result) not in (None, *formats):
                wanted = _format(result)
                for x in maps:
                    if _format(x) != wanted:
                        self._count(name, x)
        return result

    def _count(self, name: str, source: Tensor) -> None:
        if source.numel() < self.least:
            return
        line = next(
            (
                f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno}"
                for frame in reversed(traceback.extract_stack())
                if "/torch/" not in frame.filename and not frame.filename.endswith("layout_copies.py")
            ),
            "?",
        )
        self.counts[f"{name} at {line}"] += 1
        self.elements += source.numel()


def _format(x: object) -> torch.memory_format | None:
    """Of a tensor (N, C, H, W) that is dense in one format and not the other; None of any other."""
    if not isinstance(x, Tensor) or x.dim() != 4 or x.layout != torch.strided or x.numel() == 0:
        return None
    first, last = (x.is_contiguous(memory_format=f) for f in (torch.contiguous_format, torch.channels_last))
    if first == last:
        return None
    return torch.contiguous_format if first else torch.channels_last


def _other_format(source: object, result: object) -> bool:
    if not isinstance(source, Tensor) or not isinstance(result, Tensor):
        return False
    if source.numel() == 0 or source.shape != result.shape or source.dim() < 3:
        return False
    sizes = [size for size in source.shape if size > 1]
    order = [_order(x) for x in (source, result)]
    return len(sizes) > 1 and order[0] != order[1]


def _order(x: Tensor) -> list[int]:
    """Axes longer than 1, from the largest stride to the least."""
    axes = [axis for axis in range(x.dim()) if x.shape[axis] > 1]
    strides = x.stride()
    return sorted(axes, key=lambda axis: -strides[axis])
