"""Weights: reading them without running code from the file, and saving and loading a run's checkpoints."""

from .checkpointer import DetectionCheckpointer
from .reading import UnsafeCheckpointError, read_checkpoint

__all__ = ["DetectionCheckpointer", "UnsafeCheckpointError", "read_checkpoint"]
