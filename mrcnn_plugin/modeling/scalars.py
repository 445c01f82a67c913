"""Metrics that are still on the device: kept together until the host asks for them, all at once.

Each number that the host reads on its own makes it wait for everything that the device has queued.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

Scalars = dict[str, float]


@dataclass
class _Pending:
    storage: EventStorage
    prefix: str
    values: list[Tensor]
    scalars: Callable[..., Scalars]

    def put(self, values: list[float]) -> None:
        with self.storage.name_scope(self.prefix) if self.prefix else contextlib.nullcontext():
            self.storage.put_scalars(**self.scalars(*values))


#: What waits for the end of the outermost `one_transfer`; None outside of any.
_pending: list[_Pending] | None = None


@contextlib.contextmanager
def one_transfer() -> Iterator[None]:
    """Within it, `put_scalars` waits for `transfer`, or for the end of the outermost of these contexts."""
    global _pending
    if _pending is not None:
        yield
        return
    _pending = []
    try:
        yield
        transfer()
    finally:
        _pending = None


def put_scalars(values: Sequence[Tensor], scalars: Callable[..., Scalars]) -> None:
    """Puts in the current event storage what `scalars(*values)` makes of numbers that are on the device.

    Args:
        values: one-element tensors of any dtype and of one device.
        scalars: called with their values as Python numbers; returns metrics by name. The storage and its
            `name_scope` are those of this call, even where it is called later.
    """
    storage = get_event_storage()
    # EventStorage has no public name for it.
    prefix = getattr(storage, "_current_prefix", "").rstrip("/")
    pending = _Pending(storage, prefix, list(values), scalars)
    if _pending is None:
        pending.put(_numbers(pending.values))
    else:
        _pending.append(pending)


def transfer(values: Sequence[Tensor] = ()) -> list[float]:
    """Brings `values`, and all that `put_scalars` has kept, to the host in one copy.

    Args:
        values: one-element tensors of one device.

    Returns:
        `values` as Python numbers.
    """
    kept = list(_pending or ())
    numbers = iter(_numbers([*values, *(one for pending in kept for one in pending.values)]))
    result = [next(numbers) for _ in values]
    for pending in kept:
        pending.put([next(numbers) for _ in pending.values])
    if _pending is not None:
        _pending.clear()
    return result


def _numbers(values: Sequence[Tensor]) -> list[float]:
    if not values:
        return []
    # float64 holds every count and every float32.
    return torch.stack([value.detach().reshape(()).to(torch.float64) for value in values]).tolist()
