"""Every patch of another package: what Detectron2 0.6 and Cityscapes' scripts lack on a current stack."""

from .import_hook import SHIMS, apply, status
from .shim import Shim

__all__ = ["SHIMS", "Shim", "apply", "status"]
