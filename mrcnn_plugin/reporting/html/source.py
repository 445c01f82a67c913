"""What a report is made of, read from files: results and annotations of any framework, and a run folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from mrcnn_plugin.data import CocoSummary, summarize
from mrcnn_plugin.errors import DatasetError
from mrcnn_plugin.evaluation.analysis.matching import COCO_SIGMAS, RESULT_KEYS

from ..curves import Metrics, read_metrics


@dataclass
class Source:
    """Parts of a report; each but the title may be missing, and its section then is, too.

    Attributes:
        title: of the page.
        ground_truth, results: annotations and COCO result dicts.
        image_root: folder of the images.
        max_dets: detections of a class in an image that count.
        sigmas: of OKS, one for each keypoint; empty for COCO's 17.
        metrics: scalars of the training, by iteration.
        scores: task -> metric -> value, as the evaluators gave them.
        summaries: counts of annotation files, by what they are called.
        facts: (name, value) for the head of the page.
        config: the text of config.yaml.
        notes: what the reader should know, such as why a part is missing.
    """

    title: str
    ground_truth: COCO | None = None
    results: Sequence[dict] = ()
    image_root: str | None = None
    max_dets: int = 100
    sigmas: Sequence[float] = ()
    metrics: Metrics = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    summaries: dict[str, CocoSummary] = field(default_factory=dict)
    facts: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        """The tasks that results and annotations both are of; the notes say why one is not."""
        return [task for task, reason in self.possible_tasks().items() if reason is None]

    def possible_tasks(self) -> dict[str, str | None]:
        """The tasks that some result is of; with the reason where they cannot be scored."""
        if self.ground_truth is None:
            return {}
        real = [a for a in self.ground_truth.dataset["annotations"] if not a.get("iscrowd")]
        reasons: dict[str, str | None] = {}
        for task, key in RESULT_KEYS.items():
            predicted = next((result[key] for result in self.results if result.get(key)), None)
            if predicted is None:
                continue
            reasons[task] = None
            annotated = [a[key] for a in real if a.get(key)]
            if task != "keypoints" and len(annotated) < len(real):
                reasons[task] = f'{len(real) - len(annotated)} of {len(real)} annotations have no "{key}"'
            if task == "keypoints":
                numbers = len(predicted) // 3, len(annotated[0]) // 3 if annotated else 0
                sigmas = len(self.sigmas or COCO_SIGMAS)
                if not numbers[0] == numbers[1] == sigmas:
                    reasons[task] = (
                        f"results have {numbers[0]} keypoints, annotations {numbers[1]}, "
                        f"and there are {sigmas} OKS sigmas"
                    )
        return reasons

    def read_detections(self, results: str | os.PathLike, annotations: str | os.PathLike) -> None:
        """Adds a COCO results file and the annotations that it is of.

        Raises:
            DatasetError: one line that names the file and what is wrong.
        """
        self.ground_truth = read_annotations(annotations)
        self.results, unknown = read_results(results, self.ground_truth)
        if unknown:
            number = unknown + len(self.results)
            self.notes.append(
                f"{unknown:,} of {number:,} detections are left out: they are of categories that the "
                "annotations do not have."
            )
        if not self.results:
            self.notes.append("No analysis of detections: there is not one.")

    def read_run(self, folder: str | os.PathLike) -> None:
        """Adds what a run folder of train_net.py holds: metrics.json and config.yaml."""
        metrics, config = Path(folder, "metrics.json"), Path(folder, "config.yaml")
        if metrics.is_file():
            self.metrics = read_metrics(str(metrics))
        if config.is_file():
            self.config = config.read_text(encoding="utf-8")

    def summarize(self, title: str, json_file: str | os.PathLike) -> None:
        """Adds the counts of an annotation file, or a note of what is wrong with it."""
        try:
            self.summaries[title] = summarize(json_file)
        except DatasetError as error:
            self.notes.append(str(error))


def read_annotations(path: str | os.PathLike) -> COCO:
    """The annotations of a COCO file, with "iscrowd" and "area" (of the box) where they are absent.

    Raises:
        DatasetError: one line that names the file and what is wrong.
    """
    dataset = _read_json(path)
    if not isinstance(dataset, dict) or not all(
        isinstance(dataset.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise DatasetError(
            f'{path}: expected COCO annotations, with lists "images", "annotations" and "categories"'
        )
    for index, annotation in enumerate(dataset["annotations"]):
        missing = [key for key in ("id", "image_id", "category_id") if key not in annotation]
        if missing or not ("bbox" in annotation or "area" in annotation):
            raise DatasetError(f'{path}: annotations[{index}] has no "{(missing or ["bbox"])[0]}"; add it')
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        if "keypoints" in annotation:
            labelled = sum(v > 0 for v in annotation["keypoints"][2::3])
            annotation.setdefault("num_keypoints", labelled)
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(None):
        coco.createIndex()
    return coco


def read_results(path: str | os.PathLike, ground_truth: COCO) -> tuple[list[dict], int]:
    """The dicts of a COCO results file that are of categories of the ground truth; how many are of others.

    Raises:
        DatasetError: one line that names the file and what is wrong.
    """
    results = _read_json(path)
    if isinstance(results, dict) and isinstance(results.get("annotations"), list):
        # predict.py, and other programs, write detections as annotations with a score.
        results = results["annotations"]
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise DatasetError(f"{path}: expected COCO's list of results, got a {type(results).__name__}")
    for index, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing:
            raise DatasetError(f'{path}: results[{index}] has no "{missing[0]}"; add it')
        if result["image_id"] not in ground_truth.imgs:
            raise DatasetError(
                f"{path}: results[{index}] is of image {result['image_id']!r}, which the annotations do not "
                "list; are they of another data set?"
            )
    known = [result for result in results if result["category_id"] in ground_truth.cats]
    if results and not known:
        raise DatasetError(
            f"{path}: no result is of a category of the annotations, {sorted(ground_truth.cats)[:5]}...; "
            "results must have the data set's category ids, not the model's class numbers"
        )
    return known, len(results) - len(known)


def _read_json(path: str | os.PathLike) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error})") from error
