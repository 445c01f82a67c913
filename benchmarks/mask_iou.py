"""Masks of finished runs on the ground truth's own boxes and classes: the mask branch without the detector.

    python benchmarks/mask_iou.py RUN_FOLDER [RUN_FOLDER ...]

Mean IoU with the ground-truth masks of the run's test set, by COCO's sizes, at the size that the model sees.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence

import mrcnn_plugin  # noqa: F401

# isort: split
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.structures import Instances
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from mrcnn_plugin.config import fitting as datasets
from mrcnn_plugin.predict.predictor import build_predictor, run_files

SIZES = ("small", "medium", "large")


def size_of(area: float) -> str:
    """COCO's name for an object of so many pixels."""
    return SIZES[(area >= 32**2) + (area >= 96**2)]


def mask_ious(predicted: Tensor, truth: Tensor) -> list[float]:
    """IoU of each of two (K, H, W) bool masks; 0 where both are empty."""
    intersection = (predicted & truth).flatten(1).sum(1)
    union = (predicted | truth).flatten(1).sum(1)
    return (intersection / union.clamp(min=1)).tolist()


@torch.no_grad()
def masks_on_true_boxes(model: nn.Module, image: dict) -> list[tuple[str, float]]:
    """Size and IoU of each instance of a mapped image that has ground truth."""
    truth = image["instances"].to(model.device)
    given = Instances(truth.image_size, pred_boxes=truth.gt_boxes, pred_classes=truth.gt_classes)
    given.scores = torch.ones(len(given), device=model.device)
    height, width = truth.image_size
    inputs = [{"image": image["image"], "height": height, "width": width}]
    predicted = model.inference(inputs, detected_instances=[given])[0]["instances"].pred_masks
    masks = truth.gt_masks.tensor
    sizes = [size_of(area) for area in masks.flatten(1).sum(1).tolist()]
    return list(zip(sizes, mask_ious(predicted, masks)))


def measure(folder: str) -> dict[str, list[float]]:
    """IoUs of a run folder's model on its test set, by size."""
    predictor = build_predictor(*run_files(folder))
    cfg = predictor.job.cfg
    datasets.register_datasets(cfg)
    test = cfg.dataloader.test
    mapper = DatasetMapper(
        is_train=True,
        augmentations=list(instantiate(test.mapper.augmentations)),
        image_format=test.mapper.image_format,
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    ious = defaultdict(list)
    for record in tqdm(get_detection_dataset_dicts(test.dataset.names), desc=folder, leave=False):
        for size, iou in masks_on_true_boxes(predictor.model, mapper(record)):
            ious[size].append(iou)
    return ious


def row(folder: str, ious: dict[str, list[float]]) -> list[str]:
    """Mean IoU in percent of all and of each size, empty where there is none."""
    by_size = [ious.get(size, []) for size in SIZES]
    values = [list(itertools.chain(*by_size)), *by_size]
    return [folder, *(f"{100 * statistics.fmean(value):.1f}" if value else "" for value in values)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER", help="with config.yaml and weights")
    args = parser.parse_args(arguments)
    rows = [row(folder, measure(folder)) for folder in args.runs]
    print(tabulate(rows, ["run", "mask IoU", *SIZES], tablefmt="pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
