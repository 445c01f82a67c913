"""Trained models made faster for inference."""

from .compilation import compile_backbone
from .layout_copies import LayoutCopies
from .optimize import optimize, optimize_for_device
from .precision import PRECISIONS, check_precision, chosen_precision

__all__ = [
    "PRECISIONS",
    "LayoutCopies",
    "check_precision",
    "chosen_precision",
    "compile_backbone",
    "optimize",
    "optimize_for_device",
]
