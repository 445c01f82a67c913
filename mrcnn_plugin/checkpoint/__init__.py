"""Weights: reading them without running code from the file, and saving and loading a run's checkpoints."""

from .checkpointer import DetectionCheckpointer, check_native_names, check_weights
from .reading import UnsafeCheckpointError, read_checkpoint

__all__ = [
    "DetectionCheckpointer",
    "UnsafeCheckpointError",
    "check_native_names",
    "check_weights",
    "read_checkpoint",
]
