"""What predict.py writes, and whether two of its results are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_plugin.predict import argument_parser, main


def predict(output: Path, *arguments) -> list[dict]:
    line = [*map(str, arguments), "--output", str(output), "--score-threshold", "0.3"]
    assert main(argument_parser().parse_args(line)) == 0
    return json.loads((output / "predictions.json").read_text())


def assert_same_results(
    found: list[dict], expected: list[dict], pixels: float = 0.05, score: float = 1e-3, flips: int = 2
) -> None:
    """The same instances, in any order: many of a random model's have scores that are nearly equal."""
    assert len(found) == len(expected) > 3
    left = list(found)
    for other in expected:
        same = ("image_id", "category_id", "file_name")
        candidates = [one for one in left if all(one[name] == other[name] for name in same)]
        one = min(candidates, key=lambda one: np.abs(np.subtract(one["bbox"], other["bbox"])).max())
        left.remove(one)
        assert one.keys() == other.keys()
        assert one["bbox"] == pytest.approx(other["bbox"], abs=pixels)
        assert one["score"] == pytest.approx(other["score"], abs=score)
        masks = [mask_util.decode(result["segmentation"]) for result in (one, other)]
        assert masks[0].shape == masks[1].shape
        assert (masks[0] != masks[1]).sum() <= flips
