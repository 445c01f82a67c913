"""Shims for Cityscapes' evaluation scripts on a current NumPy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .shim import Overlay, Shim


def _in1d_missing() -> bool:
    import numpy as np

    return not hasattr(np, "in1d")


@contextlib.contextmanager
def _own_counting(module: Any) -> Iterator[None]:
    """Counts are Python's again as well: the module writes them as JSON."""
    yield
    np = module.np
    module.np = Overlay(
        np,
        in1d=lambda *args, **kwargs: np.isin(*args, **kwargs).ravel(),
        count_nonzero=lambda array: int(np.count_nonzero(array)),
    )


SHIMS: tuple[Shim, ...] = (
    Shim(
        name="numpy.in1d",
        why="NumPy 2.4 dropped it, and counts in its own integers; Cityscapes' evaluation needs both",
        modules=("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",),
        uses=r"\bnp\.in1d\b",
        missing=_in1d_missing,
        patch=_own_counting,
        late=True,
    ),
)
