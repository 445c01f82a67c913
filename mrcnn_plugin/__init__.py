"""Mask R-CNN and its family as a plugin for Detectron2.

After the import of this package every component is registered in Detectron2's registries, and Detectron2 0.6
works with the installed libraries (`compat`). `mrcnn_plugin.ops` is of use without Detectron2.
"""

import importlib
from typing import TYPE_CHECKING

from . import compat, registration

if TYPE_CHECKING:
    from types import ModuleType

    from .modeling import add_config as add_config
    from .optimization import optimize as optimize

__version__ = "0.1.0"

compat.apply()
# Python runs this file for `import mrcnn_plugin.ops` too, without telling it. So nothing of Detectron2 is
# imported here; registration follows Detectron2's own import, before anyone can look a component up.
registration.register_on_import()


def __getattr__(name: str) -> "ModuleType | object":
    if name == "add_config":
        return importlib.import_module(".modeling", __name__).add_config
    if name == "optimize":
        return importlib.import_module(".optimization", __name__).optimize
    if name in ("data", "modeling", "ops"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
