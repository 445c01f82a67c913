"""Cityscapes' official evaluation, through Detectron2."""

from __future__ import annotations

import os
from types import SimpleNamespace

from detectron2 import evaluation as d2_evaluation
from detectron2.data import MetadataCatalog


class CityscapesInstanceEvaluator(d2_evaluation.CityscapesInstanceEvaluator):
    """Detectron2's evaluator: AP and AP50 of instance masks by Cityscapes' own scripts, in percent.

    Those scripts leave a `matches.json` where they run: here that is the evaluator's temporary folder.

    Args:
        dataset_name: registered, with metadata `thing_classes` and `gt_dir`.
    """

    def __init__(self, dataset_name: str) -> None:
        super().__init__(dataset_name)
        known = MetadataCatalog.get(dataset_name)
        self._metadata = SimpleNamespace(
            gt_dir=os.path.abspath(known.gt_dir), thing_classes=known.thing_classes
        )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"segm": {"AP": ..., "AP50": ...}} on the first rank."""
        before = os.getcwd()
        os.chdir(self._temp_dir)
        try:
            return super().evaluate()
        finally:
            os.chdir(before)
