"""The average precision of exported models on annotated pictures."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from mrcnn_plugin.data import ensure_registered
from mrcnn_plugin.errors import ConfigError, DatasetError, ImageError
from mrcnn_plugin.evaluation import COCOEvaluator
from mrcnn_plugin.predict import ExportedPredictor

#: COCO's tasks, as they are printed.
NAMES = {"bbox": "box AP", "segm": "mask AP", "keypoints": "keypoint AP"}


class AnnotatedPictures:
    """Pictures with COCO annotations, on which files of one model are compared.

    Attributes:
        files: paths of the pictures.
    """

    def __init__(self, annotations: str, image_root: str, classes: list[str], max_dets: int | None) -> None:
        """
        Args:
            annotations: a COCO JSON file.
            image_root: the folder that its file names are relative to.
            classes: names of the model's classes, which must be the file's.
            max_dets: how many detections of a picture are scored; None: 100.

        Raises:
            ConfigError: other classes, or pictures that are not there.
            DatasetError: the file cannot be read.
        """
        self._name = f"coco:{annotations}:{image_root}"
        self._max_dets = max_dets
        ensure_registered([self._name])
        found = list(MetadataCatalog.get(self._name).thing_classes)
        if found != classes:
            raise ConfigError(
                f"--annotations {annotations}: its classes are {_listed(found)}, "
                f"the model's {_listed(classes)}"
            )
        with _silent():
            records = DatasetCatalog.get(self._name)
        self._ids = [record["image_id"] for record in records]
        self.files = [record["file_name"] for record in records]
        missing = [file for file in self.files if not os.path.isfile(file)]
        if missing or not records:
            raise ConfigError(
                f"--annotations {annotations}: {missing[0] if missing else 'a picture'} is not there; "
                "give the folder of its pictures as FILE.json:FOLDER"
            )

    def average_precision(self, path: Path, title: str) -> dict[str, float]:
        """What a file of export.py reaches.

        Args:
            path: the file.
            title: of the progress bar.

        Returns:
            Of each of the model's tasks, "bbox", "segm" and "keypoints", COCO's AP in percent.

        Raises:
            DatasetError: a picture cannot be read.
        """
        predictor = ExportedPredictor(str(path))
        evaluator = COCOEvaluator(
            self._name, distributed=False, output_dir=None, max_dets_per_image=self._max_dets
        )
        evaluator.reset()
        pictures = list(zip(self._ids, self.files))
        for image_id, file in tqdm(pictures, title, unit="picture", disable=None):
            try:
                found = predictor(file)
            except ImageError as error:
                raise DatasetError(f"--annotations: {file}: {error}") from error
            evaluator.process([{"image_id": image_id}], [{"instances": found}])
        with _silent():
            results = evaluator.evaluate()
        # Where nothing was found, or nothing is annotated, it is NaN.
        return {task: 0.0 if math.isnan(one["AP"]) else one["AP"] for task, one in results.items()}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the tables of COCO's evaluation, and without Detectron2's log."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
