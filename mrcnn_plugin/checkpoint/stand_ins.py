"""Checkpoints of MMEngine (MMDetection 3), whose log buffers need MMEngine's classes to be read.

Beside its weights such a file holds a `message_hub` of `HistoryBuffer` objects. They are read as stand-ins
that keep nothing and run nothing, and what holds one is left out. Any other class is still refused.
"""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

# MMEngine's own classes, the NumPy arrays and scalars in them, and `getattr`, by which pickle names the
# buffers' statistics. None of them is imported or called.
_BOOKKEEPING = re.compile(
    r"mmengine\.[\w.]+|numpy(\.[\w]+)+|(builtins\.|__builtin__\.)?getattr|_codecs\.encode"
)


class _StandIn:
    """Takes the place of an object: every way in which a pickle builds one is accepted, and forgotten."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        return

    def __setstate__(self, state: Any) -> None:
        return


def read_weights_beside_bookkeeping(path: Path) -> dict[str, Any] | None:
    """Top-level entries of a file of `torch.save` that hold none of MMEngine's objects.

    Returns:
        None where the file names anything else that `weights_only` loading refuses, or is none of MMEngine's.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, pickle.UnpicklingError, EOFError):
        # Not a zip archive: written before PyTorch 1.6, which MMEngine never knew.
        return None
    if not any(name.startswith("mmengine.") for name in names):
        return None
    if not all(_BOOKKEEPING.fullmatch(name) for name in names):
        return None
    with torch.serialization.safe_globals([(_StandIn, name) for name in names]):
        data = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(data, dict):
        return None
    kept = {name: value for name, value in data.items() if not _holds_stand_in(value)}
    left_out = ", ".join(str(name) for name in data if name not in kept)
    logger.info(f"{path}: left out {left_out} (MMEngine's objects)")
    return kept


def _holds_stand_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_stand_in(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set)):
        return any(map(_holds_stand_in, value))
    return isinstance(value, _StandIn) or value is _StandIn
