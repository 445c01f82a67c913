"""Trained models made faster for inference."""

from .layout_copies import LayoutCopies
from .optimize import optimize, optimize_for_device

__all__ = ["LayoutCopies", "optimize", "optimize_for_device"]
