"""The comparison names what differs, on detections made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.exported_models import description_of

from mrcnn_plugin.export.parity import Tolerance, compare
from mrcnn_plugin.runtime import ExportedModel

ABOUT = description_of(["boxes", "scores", "classes", "masks", "keypoints"])


class Given(ExportedModel):
    """A model that always finds the same."""

    def __init__(self, **found: np.ndarray) -> None:
        super().__init__(ABOUT)
        self._found = found

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return self._found


def found() -> dict[str, np.ndarray]:
    masks = np.zeros((2, 4, 4), dtype=np.float32)
    masks[:, 1:] = 0.9
    return {
        "boxes": np.array([[10, 10, 50, 50], [20, 30, 60, 70]], dtype=np.float32),
        "scores": np.array([0.9, 0.3], dtype=np.float32),
        "classes": np.array([2, 0]),
        "masks": masks,
        "keypoints": np.array([[[12, 14, 0.5]], [[30, 40, 0.2]]], dtype=np.float32),
    }


def compared(other: dict[str, np.ndarray]):
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    return compare(Given(**found()), Given(**other), [("a.png", image)], Tolerance())


def changed(name: str, index, value) -> dict[str, np.ndarray]:
    other = found()
    other[name][index] = value
    return other


def test_equal():
    parity = compared(found())
    assert (parity.detections, parity.matched, parity.first) == (2, 2, "")
    assert (parity.box, parity.score, parity.keypoint, parity.mask_iou) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("name", "index", "value", "first"),
    [
        (
            "boxes",
            (0, 2),
            50.1,
            "a.png: box of class 2, score 0.900, box (10.0, 10.0, 50.0, 50.0) differs by 0.1",
        ),
        ("scores", 1, 0.31, "a.png: score of class 0, score 0.300"),
        ("classes", 0, 1, "a.png: class 2, score 0.900, box (10.0, 10.0, 50.0, 50.0) is missing"),
        ("keypoints", (1, 0, 0), 30.5, "a.png: keypoint of class 0"),
        ("masks", (0, 0), 0.9, "a.png: mask of class 2"),
    ],
)
def test_first_difference_is_named(name, index, value, first):
    assert compared(changed(name, index, value)).first.startswith(first)


def test_a_score_at_the_threshold_may_be_missing():
    other = {name: value[:1] for name, value in found().items()}
    assert compared(other).first.endswith("is missing")
    near = Given(**changed("scores", 1, 0.0505))
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    parity = compare(near, Given(**other), [("a.png", image)], Tolerance())
    assert (parity.detections, parity.matched, parity.first) == (1, 1, "")


def test_a_pixel_at_the_mask_threshold_may_be_missing():
    """Of 0.5004 and 0.4996, within the tolerance of scores, one side rounds to the mask and the other not."""
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    for high, low, good in ((0.5004, 0.4996, True), (0.502, 0.498, False)):
        models = [Given(**changed("masks", 0, value)) for value in (high, low)]
        for pair in (models, models[::-1]):
            parity = compare(*pair, [("a.png", image)], Tolerance())
            assert (parity.first == "") == good
            assert parity.mask_iou == 1 or not good


def test_one_too_many():
    one = {name: value[:1] for name, value in found().items()}
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    parity = compare(Given(**one), Given(**found()), [("a.png", image)], Tolerance())
    assert parity.first.startswith("a.png: class 0, score 0.300")
    assert parity.first.endswith("is not one of the original model's")
