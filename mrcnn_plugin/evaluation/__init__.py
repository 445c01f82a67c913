"""Scoring: COCO's metrics from RLE, boundary AP, Cityscapes' official evaluation."""

from .cityscapes import CityscapesInstanceEvaluator
from .coco_evaluation import COCOEvaluator, evaluate_coco, instances_to_coco_json, takes_rle

__all__ = [
    "COCOEvaluator",
    "CityscapesInstanceEvaluator",
    "evaluate_coco",
    "instances_to_coco_json",
    "takes_rle",
]
