"""Applies the shims when the modules that need them are imported.

A shim acts inside the module that needs it and nowhere else: other users of NumPy, Pillow or PyTorch see no
difference. It acts when its module is imported (or at once, where it already is), only if that module's
source has the problem and the installed library lacks what it uses; with Detectron2's main branch most find
nothing to do. `status()` says which acted and why.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from . import cityscapesscripts, detectron2
from .shim import Shim

SHIMS: tuple[Shim, ...] = (*detectron2.SHIMS, *cityscapesscripts.SHIMS)

#: (shim, module) pairs that acted in this process.
_applied: list[tuple[Shim, str]] = []


def shims_for(module: str, file: str | None) -> list[Shim]:
    """The shims that `module`, whose source is `file`, needs here."""
    candidates = [shim for shim in SHIMS if module in shim.modules]
    if not candidates or not file or not Path(file).is_file():
        return []
    source = Path(file).read_text(encoding="utf-8")
    return [shim for shim in candidates if re.search(shim.uses, source) and shim.missing()]


@contextlib.contextmanager
def _patched(module: types.ModuleType, shims: list[Shim]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for shim in shims:
            stack.enter_context(shim.patch(module))
        yield
    _applied.extend((shim, module.__name__) for shim in shims)


class _ShimLoader(importlib.abc.Loader):
    """Runs a module with its shims around it; everything else is its own loader's."""

    def __init__(self, loader: importlib.abc.Loader, shims: list[Shim]) -> None:
        self._loader = loader
        self._shims = shims

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        # The module keeps its own loader, so that inspect and pickling see nothing unusual.
        module.__loader__ = module.__spec__.loader = self._loader
        with _patched(module, self._shims):
            self._loader.exec_module(module)


class _ShimFinder(importlib.abc.MetaPathFinder):
    """Hands the modules that need a shim to `_ShimLoader`; looks at no other module."""

    _names = frozenset(name for shim in SHIMS for name in shim.modules)

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                shims = shims_for(fullname, spec.origin)
                if shims and spec.loader is not None:
                    spec.loader = _ShimLoader(spec.loader, shims)
                return spec
        return None


def apply() -> None:
    """Makes the shims act on every module that is imported from now on, or already was.

    Does nothing the second time.
    """
    if any(isinstance(finder, _ShimFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _ShimFinder())
    for name in sorted(_ShimFinder._names & sys.modules.keys()):
        module = sys.modules[name]
        late = [shim for shim in shims_for(name, getattr(module, "__file__", None)) if shim.late]
        with _patched(module, late):
            pass


def status() -> list[tuple[str, str, str]]:
    """What every shim did in this process.

    Returns:
        One (name, what happened, why it exists) per shim. A shim whose modules were not imported says so.
    """
    rows = []
    for shim in SHIMS:
        done = [module for acted, module in _applied if acted is shim]
        imported = [module for module in shim.modules if module in sys.modules]
        if done:
            what = "applied to " + ", ".join(module.removeprefix("detectron2.") for module in done)
        elif imported:
            what = "not needed"
        else:
            what = "not imported yet"
        rows.append((shim.name, what, shim.why))
    return rows
