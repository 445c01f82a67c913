"""The pictures with most errors: which, with which shapes, and how large."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from helpers.detections import HEIGHT, WIDTH, coco_of, dataset_of, detection
from PIL import Image

from mrcnn_plugin.evaluation.analysis.error_types import error_types
from mrcnn_plugin.evaluation.analysis.matching import match
from mrcnn_plugin.reporting.html.pictures import worst_pictures

BOX, OTHER, AWAY = (10, 10, 20, 20), (60, 10, 40, 20), (100, 80, 20, 20)
NAMES = ("cat", "dog", "cow")


@pytest.fixture
def pictures(tmp_path):
    """pictures(scenes, results, **options) of grey images."""

    def make(scenes, results, *, task="segm", absent=(), **options):
        truth = coco_of(dataset_of(scenes))
        for image in truth.dataset["images"]:
            if image["id"] not in absent:
                Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / image["file_name"])
        matches = match(truth, results, task)
        thresholds = np.array([0.5, 0.5, 0.5])
        return worst_pictures(
            truth, results, str(tmp_path), matches, error_types(matches), thresholds, NAMES, **options
        )

    return make


SCENES = [[(0, BOX)], [(0, BOX), (1, OTHER)], [(0, BOX)]]
RESULTS = [
    detection(0, 0, BOX, 0.9),
    detection(0, 0, AWAY, 0.4),  # below the threshold: no error
    detection(1, 1, BOX, 0.9),  # a cat taken for a dog
    detection(1, 0, AWAY, 0.8),
    detection(2, 0, BOX, 0.4),  # found below the threshold only: missed
]


def test_most_errors_come_first(pictures):
    found = pictures(SCENES, RESULTS)
    assert [picture.name for picture in found] == ["2.png", "3.png"]
    assert found[0].errors == {"classification": 1, "background": 1, "missed": 2}
    assert found[1].errors == {"missed": 1}
    assert [(shape.kind, shape.label) for shape in found[0].detections] == [
        ("background", "cat 0.80, background"),
        ("classification", "dog 0.90, classification error (cat here)"),
    ]
    assert [(shape.kind, shape.name) for shape in found[0].truths] == [("missed", "cat"), ("missed", "dog")]
    assert found[1].detections == []


def test_shapes_lie_on_the_picture(pictures):
    (picture,) = pictures([[(1, OTHER)]], [])
    assert (picture.width, picture.height) == (520, 390)
    with Image.open(io.BytesIO(base64.b64decode(picture.jpeg))) as image:
        assert image.size == (520, 390)
    (shape,) = picture.truths
    scale = 520 / WIDTH
    assert shape.box == pytest.approx([scale * value for value in OTHER], abs=0.06)
    corners = np.array(re.findall(r"([\d.]+),([\d.]+)", shape.path), float)
    x, y, w, h = (scale * value for value in OTHER)
    # The outline of a rectangle is that rectangle, to less than a pixel of the report.
    assert corners.min(axis=0) == pytest.approx([x, y], abs=1)
    assert corners.max(axis=0) == pytest.approx([x + w, y + h], abs=1)
    assert len(corners) <= 8


def test_number_and_bytes_are_limited(pictures):
    assert len(pictures(SCENES, RESULTS, limit=1)) == 1
    first = pictures(SCENES, RESULTS)[0]
    assert len(pictures(SCENES, RESULTS, max_bytes=first.size + 10)) == 1
    # One at least, whatever it takes.
    assert len(pictures(SCENES, RESULTS, max_bytes=10)) == 1


def test_an_image_that_is_not_there_is_left_out(pictures, caplog):
    found = pictures(SCENES, RESULTS, absent=[2])
    assert [picture.name for picture in found] == ["3.png"]
    (record,) = [record for record in caplog.records if record.name.startswith("mrcnn_plugin.reporting")]
    assert "2.png" in record.message


def test_without_errors_there_is_no_picture(pictures):
    assert pictures([[(0, BOX)]], [detection(0, 0, BOX, 0.9)]) == []


def test_keypoints_and_their_lines(pictures, tmp_path):
    points = np.zeros((17, 3))
    points[:2] = [[10, 10, 2], [30, 10, 1]]
    scene = [(0, BOX, {"keypoints": points.ravel().tolist(), "num_keypoints": 2})]
    dataset = dataset_of([scene])
    dataset["categories"][0]["skeleton"] = [[1, 2], [2, 3]]
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "1.png")
    truth = coco_of(dataset)
    matches = match(truth, [], "keypoints")
    (picture,) = worst_pictures(
        truth, [], str(tmp_path), matches, error_types(matches), np.full(3, 0.5), NAMES
    )
    (shape,) = picture.truths
    assert shape.points == [(32.5, 32.5), (97.5, 32.5)]
    # The third keypoint is not labelled: no line leads there.
    assert shape.limbs == [(32.5, 32.5, 97.5, 32.5)]


def test_sixteen_bits_become_eight(tmp_path):
    from mrcnn_plugin.reporting.html.pictures import _jpeg

    pixels = np.full((20, 40), 1000, np.uint16)
    pixels[:, 20:] = 3000
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    data, width, height = _jpeg(str(tmp_path / "deep.png"))
    assert (width, height) == (520, 260)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        values = np.asarray(image.convert("L"))
    assert values[130, 60] < 5
    assert values[130, 460] > 250
