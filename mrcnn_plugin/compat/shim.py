"""A shim: one thing that some modules of another package miss on the installed libraries, and its patch."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Patch = Callable[[types.ModuleType], "contextlib.AbstractContextManager[None]"]


@dataclass(frozen=True)
class Shim:
    """One thing that some modules of another package miss, and its patch.

    Attributes:
        name: short name, as `status()` prints it.
        why: what is gone, for the person who reads `status()`.
        modules: the modules that the patch is for.
        uses: regular expression that their source matches when it has the problem.
        missing: whether the installed libraries lack what the source uses.
        patch: context around the execution of the module: what comes before the yield is in place while its
            top level runs, what comes after changes the module itself.
        late: whether the patch also helps a module that was imported before; the others fail on import.
    """

    name: str
    why: str
    modules: tuple[str, ...]
    uses: str
    missing: Callable[[], bool]
    patch: Patch
    late: bool = False


@contextlib.contextmanager
def swapped(table: object, key: str, value: object) -> Iterator[None]:
    """Sets an attribute (or an entry of a dict) for a while; afterwards it is as it was."""
    entries = table if isinstance(table, dict) else vars(table)
    absent = object()
    before = entries.get(key, absent)
    entries[key] = value
    try:
        yield
    finally:
        if before is absent:
            entries.pop(key, None)
        else:
            entries[key] = before


class Overlay(types.ModuleType):
    """A module that answers some names itself and hands every other one on."""

    def __init__(self, module: types.ModuleType, **names: object) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["_module"], name)
