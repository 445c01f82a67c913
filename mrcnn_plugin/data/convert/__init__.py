"""Annotations in the formats that people have -> one COCO JSON that `coco:ANNOTATIONS.json:IMAGE_ROOT` names.

From Python as well: a reader gives an `AnnotationSet`, `write_coco` writes it.
"""

from .annotation_set import AnnotationSet, Options
from .coco import read_coco
from .labelme import read_labelme
from .mask_folders import read_dsb2018, read_pennfudan
from .writing import write_coco
from .yolo import read_yolo

__all__ = [
    "AnnotationSet",
    "Options",
    "read_coco",
    "read_dsb2018",
    "read_labelme",
    "read_pennfudan",
    "read_yolo",
    "write_coco",
]
