"""Weights: reading them without running code from the file, and saving and loading a run's checkpoints."""

from . import sources as sources  # package:// and timm://
from .checkpointer import DetectionCheckpointer, check_native_names, check_weights
from .reading import UnsafeCheckpointError, read_checkpoint
from .timm_weights import convert_efficientnet_lite

__all__ = [
    "DetectionCheckpointer",
    "UnsafeCheckpointError",
    "check_native_names",
    "check_weights",
    "convert_efficientnet_lite",
    "read_checkpoint",
]
