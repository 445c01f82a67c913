"""Applies the shims when the modules that need them are imported.

A shim acts inside the module that needs it and nowhere else: other users of NumPy, Pillow or PyTorch see no
difference. It acts when its module is imported (or at once, where it already is), only if that module's
source has the problem and the installed library lacks what it uses; with Detectron2's main branch most find
nothing to do. `status()` says which acted and why.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from mrcnn_plugin.around_import import Around, AroundImport

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


def _around(name: str, file: str | None) -> Around | None:
    shims = shims_for(name, file)
    return functools.partial(_patched, shims=shims) if shims else None


_hook = AroundImport((name for shim in SHIMS for name in shim.modules), _around)


def apply() -> None:
    """Makes the shims act on every module that is imported from now on, or already was.

    Does nothing the second time.
    """
    if _hook in sys.meta_path:
        return
    _hook.install()
    for name in sorted(_hook.names & sys.modules.keys()):
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
