"""Weights: reading them without running code from the file, and other libraries' under Detectron2's names."""

from .checkpointer import DetectionCheckpointer
from .class_rows import coco_to_cityscapes, select_class_rows
from .from_mmdetection import convert_mmdetection, mmdetection_settings
from .from_swin import convert_swin
from .from_torchvision import convert_torchvision, torchvision_settings
from .reading import UnsafeCheckpointError, read_checkpoint

__all__ = [
    "DetectionCheckpointer",
    "UnsafeCheckpointError",
    "coco_to_cityscapes",
    "convert_mmdetection",
    "convert_swin",
    "convert_torchvision",
    "mmdetection_settings",
    "read_checkpoint",
    "select_class_rows",
    "torchvision_settings",
]
