"""Code around the import of chosen modules: how `compat` and `registration` reach Detectron2 in time."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType

#: What surrounds the execution of a module; None where its file (or None) needs nothing.
Around = Callable[[ModuleType], AbstractContextManager[None]]


class AroundImport(importlib.abc.MetaPathFinder):
    """Executes the modules of given names inside a context; finds and loads nothing itself.

    Args:
        names: full names of the modules.
        around: of a module's name and its source file, the context to execute it in, or None.
    """

    def __init__(self, names: Iterable[str], around: Callable[[str, str | None], Around | None]) -> None:
        self.names = frozenset(names)
        self._around = around

    def install(self) -> None:
        """Acts on the modules that are imported from now on."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.names:
            return None
        # Those before it have been asked already; asking them would let two of this class ask each other.
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in behind)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        around = self._around(fullname, spec.origin)
        if around is not None:
            spec.loader = _LoaderInContext(spec.loader, around)
        return spec


class _LoaderInContext(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, around: Around) -> None:
        self._loader = loader
        self._around = around

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader, so that inspect and pickling see nothing unusual.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._around(module):
            self._loader.exec_module(module)
