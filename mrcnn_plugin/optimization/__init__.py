"""Trained models made faster for inference."""

from .layout_copies import LayoutCopies
from .optimize import optimize

__all__ = ["LayoutCopies", "optimize"]
