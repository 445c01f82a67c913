"""Weights of other libraries, and of other data sets' classes, under Detectron2's names."""

from .class_transfer import coco_to_cityscapes, select_class_rows
from .mmdetection import convert_mmdetection
from .torchvision import convert_torchvision

__all__ = [
    "coco_to_cityscapes",
    "convert_mmdetection",
    "convert_torchvision",
    "select_class_rows",
]
