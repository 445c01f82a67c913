"""Registers the components and the built-in data as soon as Detectron2 can be asked for them.

Whoever looks something up in Detectron2's registries has imported `detectron2.modeling`, and in its catalogs
`detectron2.data`; the end of that import is the moment to register. So a program that uses only
`mrcnn_plugin.ops` never loads Detectron2, and every other one finds all components.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType

from .around_import import AroundImport

#: Detectron2's package -> the package of this project whose import registers with it. The second may import
#: nothing of Detectron2 that the first does not: more could be half imported at that moment.
REGISTERS = {"detectron2.modeling": "mrcnn_plugin.modeling", "detectron2.data": "mrcnn_plugin.data"}


class _MissingDetectron2(importlib.abc.MetaPathFinder):
    """The last finder: it is asked for Detectron2 where no other has it, and finds nothing either."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if fullname == "detectron2":
            warnings.warn(
                "Detectron2 is not installed: only mrcnn_plugin.ops works. See 'Install' in mrcnn_plugin's "
                "README.",
                stacklevel=2,
            )


@contextlib.contextmanager
def _then_register(module: ModuleType) -> Iterator[None]:
    yield
    importlib.import_module(REGISTERS[module.__name__])


def register_on_import() -> None:
    """Registers now what Detectron2 is already there for, and the rest when it is imported."""
    AroundImport(REGISTERS, lambda name, origin: _then_register).install()
    sys.meta_path.append(_MissingDetectron2())
    for name in sorted(REGISTERS.keys() & sys.modules.keys()):
        importlib.import_module(REGISTERS[name])
