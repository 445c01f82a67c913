"""Faster forms of a class for single objects of it."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


@functools.cache
def _combined(own: Any, faster: Any) -> Any:
    return type(own.__name__, (own, faster), {"__module__": own.__module__})


def undo(model: nn.Module) -> None:
    """Gives modules whose class was replaced by one with a `plain_class` that class again, in place."""
    for module in model.modules():
        plain = getattr(type(module), "plain_class", None)
        if plain is not None:
            module.__class__ = plain


def specialize(module: nn.Module, faster: type) -> None:
    """Makes `module`, in place, one of `faster`, a subclass of a class that it is of.

    Parents hold their modules in attributes and lists too, so that the object has to stay. Where it is of
    another subclass of that class, `faster` comes between the two: it is what `super()` finds.
    """
    # mypy holds that classes of modules have no hash.
    own: Any = type(module)
    module.__class__ = faster if own in faster.__mro__ else _combined(own, faster)
