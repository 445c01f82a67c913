"""COCO's own numbers in full: per class, along the recall, and of groups of objects."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from mrcnn_plugin.evaluation.coco_evaluation import evaluate_coco

from .matching import RESULT_KEYS

# Edges of groups; the first and the last are open. COCO's own sizes have their limits at 32 and 96.
SIZE_EDGES = (8, 16, 32, 64, 96, 192)
ASPECT_EDGES = (1 / 3, 2 / 3, 3 / 2, 3)
CROWDING_EDGES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Group:
    """AP of the objects that share a property.

    Attributes:
        name: of the group.
        objects: annotations in it, crowds left out.
        ap, ap50: in percent, the mean over the classes that it holds.
    """

    name: str
    objects: int
    ap: float
    ap50: float


class CocoScores:
    """A COCO evaluation of results of one task.

    Args:
        ground_truth: pycocotools' COCO of the annotations.
        results: COCO result dicts, at least one with the task's key; not changed.
        task: "bbox", "segm" or "keypoints".
        max_dets: detections of a class in an image that count; of no effect on keypoints, for which COCO
            counts 20.
        sigmas: of OKS, one for each keypoint; COCO's 17 by default.

    Attributes:
        ious, recalls: the thresholds (10,) and recalls (101,) of COCO.
        precision: (10, 101, num_classes) in [0, 1]; NaN for classes without annotations.
    """

    def __init__(
        self,
        ground_truth: COCO,
        results: Sequence[dict],
        task: str,
        *,
        max_dets: int = 100,
        sigmas: Sequence[float] = (),
    ) -> None:
        self.task = task
        with contextlib.redirect_stdout(None):
            self._scorer = evaluate_coco(
                ground_truth,
                [result for result in results if result.get(RESULT_KEYS[task])],
                task,
                max_dets=(1, 10, max_dets),
                kpt_oks_sigmas=sigmas,
                faster=importlib.util.find_spec("faster_coco_eval") is not None,
            )
        self.ious = np.array(self._scorer.params.iouThrs)
        self.recalls = np.array(self._scorer.params.recThrs)
        self._areas = list(self._scorer.params.areaRngLbl)
        evaluation = self._scorer.eval
        self._precision = _known(evaluation["precision"])[..., -1]
        self._recall = _known(evaluation["recall"])[..., -1]
        self.precision = self._precision[..., 0]

    def class_rows(self) -> list[dict[str, float]]:
        """AP, AP50, AP75, AR, and those of APs, APm, APl that COCO has for the task, of each class.

        In percent; NaN where a class has no such object.
        """
        named: list[tuple[str, Any]] = [("AP", self._precision[..., 0])]
        named += [(f"AP{round(100 * iou)}", self._precision[self._at(iou), ..., 0]) for iou in (0.5, 0.75)]
        for index, area in enumerate(self._areas):
            if area != "all":
                named.append((f"AP{area[0]}", self._precision[..., index]))
        classes = self.precision.shape[-1]
        rows: list[dict[str, float]] = [{} for _ in range(classes)]
        for name, values in named:
            for row, value in zip(rows, _mean(values.reshape(-1, classes), axis=0)):
                row[name] = 100 * float(value)
        for row, value in zip(rows, _mean(self._recall[..., 0], axis=0)):
            row["AR"] = 100 * float(value)
        return rows

    def mean_row(self) -> dict[str, float]:
        """The means of `class_rows` over the classes, which are COCO's numbers."""
        rows = self.class_rows()
        return {name: float(_mean(np.array([row[name] for row in rows]), axis=0)) for name in rows[0]}

    def mean_curves(self) -> np.ndarray:
        """(10, 101) precision in [0, 1] at COCO's IoUs and recalls, the mean over the classes."""
        return _mean(self.precision, axis=2)

    def by_size(self) -> list[Group]:
        """Groups by the square root of COCO's area, in pixels."""
        for annotation in self._annotations():
            annotation["_group"] = annotation["_area"] ** 0.5
        return self._groups(SIZE_EDGES, _range_names(SIZE_EDGES))

    def by_aspect_ratio(self) -> list[Group]:
        """Groups by width / height of the box."""
        for annotation in self._annotations():
            _, _, width, height = annotation["bbox"]
            annotation["_group"] = width / height if height > 0 else 1.0
        names = ["< 1:3", "1:3 to 2:3", "2:3 to 3:2", "3:2 to 3:1", "> 3:1"]
        return self._groups(ASPECT_EDGES, names)

    def by_crowding(self) -> list[Group]:
        """Groups of images by the number of their annotations."""
        truths = self._scorer.cocoGt.dataset["annotations"]
        number = Counter(truth["image_id"] for truth in truths if not truth.get("iscrowd"))
        for annotation in self._annotations():
            annotation["_group"] = number[annotation["image_id"]]
        return self._groups(CROWDING_EDGES, _range_names(CROWDING_EDGES, whole=True))

    def _at(self, iou: float) -> int:
        return int(np.abs(self.ious - iou).argmin())

    def _annotations(self) -> list[dict]:
        """Annotations and results as the scorer holds them, with their areas kept aside."""
        found = [*self._scorer.cocoGt.anns.values(), *self._scorer.cocoDt.anns.values()]
        for annotation in found:
            annotation.setdefault("_area", annotation["area"])
        return found

    def _groups(self, edges: Sequence[float], names: Sequence[str]) -> list[Group]:
        """COCO's evaluation with ranges of `_group` in place of its ranges of areas.

        So, as with COCO's sizes, annotations outside of a group are ignored, and so are detections outside
        of it that match nothing.
        """
        scorer = self._scorer
        limits = [-np.inf, *edges, np.inf]
        for annotation in self._annotations():
            annotation["area"] = annotation["_group"]
        scorer.params.areaRng = [
            [float(np.clip(low, -1e10, 1e10)), float(np.nextafter(np.clip(high, -1e10, 1e10), -np.inf))]
            for low, high in itertools.pairwise(limits)
        ]
        scorer.params.areaRngLbl = list(names)
        # The overlaps stay; those of keypoints would be computed from the areas.
        ious = dict(scorer.ious)
        scorer.computeIoU = scorer.computeOks = lambda image, category: ious[image, category]
        with contextlib.redirect_stdout(None):
            scorer.evaluate()
            scorer.accumulate()
        for annotation in self._annotations():
            annotation["area"] = annotation["_area"]
        precision = _known(scorer.eval["precision"])[..., -1]
        values = np.array([a["_group"] for a in scorer.cocoGt.anns.values() if not a.get("ignore")], float)
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(names))
        return [
            Group(
                name,
                int(counts[index]),
                100 * float(_mean(precision[..., index].ravel(), axis=0)),
                100 * float(_mean(precision[self._at(0.5), ..., index].ravel(), axis=0)),
            )
            for index, name in enumerate(names)
            if counts[index]
        ]


def _known(values: np.ndarray) -> np.ndarray:
    """COCO's -1 for what does not exist as NaN."""
    values = np.asarray(values, float)
    return np.where(values > -1, values, np.nan)


def _mean(values: np.ndarray, axis: int) -> Any:
    """np.nanmean without a warning where all are NaN."""
    number = np.sum(~np.isnan(values), axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, np.nansum(values, axis=axis) / number, np.nan)


def _range_names(edges: Sequence[int], *, whole: bool = False) -> list[str]:
    """Names of the ranges between edges, of whole numbers from 1 or of any."""
    first = "1" if whole and edges[0] == 2 else f"< {edges[0]}"
    return [first, *(f"{low}–{high - whole}" for low, high in itertools.pairwise(edges)), f"≥ {edges[-1]}"]
