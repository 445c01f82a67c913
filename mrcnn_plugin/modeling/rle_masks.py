"""COCO RLEs as a field of Detectron2's Instances."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class RLEMasks(list):
    """K COCO RLE dicts {"size": [height, width], "counts": bytes}, indexed as every field of Instances is.

    An int gives one dict; a slice, a bool tensor (K,) or a tensor of int64 indices gives RLEMasks.
    """

    def __init__(self, rles: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(rles)

    # Also by a tensor, as Instances select; an index or a slice does what it does to a list.
    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, Tensor) and item.dim() > 0:
            if item.dtype == torch.bool:
                if len(item) != len(self):
                    raise IndexError(f"a mask of {len(item)} entries indexes {len(self)} RLEs")
                item = item.nonzero()[:, 0]
            return RLEMasks(list.__getitem__(self, index) for index in item.tolist())
        selected = super().__getitem__(item)
        return RLEMasks(selected) if isinstance(item, slice) else selected
