"""Calls of a base class's method that TorchScript can compile."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


def base_method(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`method` of a base class under another name, to be an attribute of the class that overrides it.

    TorchScript has no `super()`, and compiles a method under the `__name__` of its function: calling the
    base's by an alias alone would define the overriding one twice.
    """
    copy = types.FunctionType(
        method.__code__, method.__globals__, name, method.__defaults__, method.__closure__
    )
    copy.__kwdefaults__ = method.__kwdefaults__
    copy.__annotations__ = method.__annotations__
    copy.__doc__ = method.__doc__
    return copy
