"""Registers the components and the built-in data with Detectron2, as soon as Detectron2 can be asked for them.

Whoever looks something up in Detectron2's registries has imported `detectron2.modeling`, and in its catalogs
`detectron2.data`; the end of that import is the moment to register. So a program that uses only
`mrcnn_plugin.ops` never loads Detectron2, and every other one finds all components.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

from .around_import import AroundImport

#: Detectron2's package -> the package of this project whose import registers with it. The second may import
#: nothing of Detectron2 that the first does not: more could be half imported at that moment.
REGISTERS = {"detectron2.modeling": "mrcnn_plugin.modeling", "detectron2.data": "mrcnn_plugin.data"}


@contextlib.contextmanager
def _then_register(module: ModuleType) -> Iterator[None]:
    yield
    importlib.import_module(REGISTERS[module.__name__])


def register_on_import() -> None:
    """Registers now what Detectron2 is already there for, and the rest when it is imported."""
    AroundImport(REGISTERS, lambda name, origin: _then_register).install()
    for name in sorted(REGISTERS.keys() & sys.modules.keys()):
        importlib.import_module(REGISTERS[name])
