"""Mask R-CNN and its family as a plugin for Detectron2.

Importing the package adapts Detectron2 0.6 to the installed libraries (`compat`) and registers every
component with Detectron2's registries. Without Detectron2 only `mrcnn_plugin.ops` is of use.
"""

import importlib
import importlib.util
import warnings

__version__ = "0.1.0"

if importlib.util.find_spec("detectron2") is None:
    warnings.warn(
        "Detectron2 is not installed: only mrcnn_plugin.ops works. See 'Install' in mrcnn_plugin's README.",
        stacklevel=2,
    )
else:
    from . import compat

    compat.apply()

    # Registers the components and the built-in data.
    importlib.import_module("mrcnn_plugin.data")
    from .modeling import add_config as add_config
