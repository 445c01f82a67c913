"""Single annotations of COCO JSON files: what is completed, refused or left out."""

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from mrcnn_plugin.data.convert import AnnotationSet, Options
from mrcnn_plugin.data.convert.coco_instances import Instance, run_lengths
from mrcnn_plugin.data.convert.masks import decode_segmentation, segment_mask
from mrcnn_plugin.data.convert.pictures import Picture
from mrcnn_plugin.errors import DatasetError

SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]
RLE = {"size": [20, 30], "counts": [40, 20, 540]}


@pytest.fixture
def found():
    return AnnotationSet(Path("."))


@pytest.fixture
def fields(found):
    """The converter's fields of an annotation in a picture of 30 x 20."""

    def fields(entry, **options):
        picture = Picture(Path("a.png"), 30, 20)
        return Instance(entry, "a.json annotation 1", picture, None, found, Options(**options)).fields()

    return fields


def test_missing_numbers_come_from_the_mask(fields):
    expected = {"iscrowd": 0, "segmentation": [SQUARE], "area": 100, "bbox": [2, 3, 10, 10]}
    assert fields({"segmentation": [SQUARE]}) == expected
    assert fields({"segmentation": SQUARE, "bbox": [2, 3, 0, 10], "area": -1}) == expected


def test_usable_numbers_of_the_file_are_kept(fields):
    entry = fields({"segmentation": [SQUARE], "bbox": [2.5, 3.5, 9, 9], "area": 99.5})
    assert (entry["bbox"], entry["area"]) == ([2.5, 3.5, 9, 9], 99.5)


def test_forms_of_masks(fields):
    as_rle = fields({"segmentation": [SQUARE]}, masks="rle")["segmentation"]
    assert decode_segmentation(as_rle, 20, 30).sum() == 100
    kept = fields({"segmentation": RLE})["segmentation"]
    assert isinstance(kept["counts"], str)
    polygons = fields({"segmentation": RLE}, masks="polygon")["segmentation"]
    np.testing.assert_array_equal(decode_segmentation(polygons, 20, 30), decode_segmentation(RLE, 20, 30))
    crowd = fields({"segmentation": RLE, "iscrowd": 1}, masks="polygon")
    assert isinstance(crowd["segmentation"], dict)


def test_boxes_alone_are_kept_or_made_rectangles(fields):
    box = {"bbox": [2, 3, 10, 5]}
    assert fields(box) == {"iscrowd": 0, "bbox": [2, 3, 10, 5], "area": 50}
    assert fields(box, boxes=True)["segmentation"] == [[2, 3, 12, 3, 12, 8, 2, 8]]


def test_ignored_regions_become_crowds(fields, found):
    entry = fields({"segmentation": [SQUARE], "ignore": 1})
    assert entry["iscrowd"] == 1
    assert "ignore" not in entry
    assert list(found.notes.values()) == [["a.json annotation 1"]]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "annotations without a mask and without a box that has an area"),
        ({"bbox": [3, 3, 0, 4], "segmentation": []}, "annotations without a mask and without a box"),
        ({"segmentation": [[1.6, 1.6, 1.9, 1.6, 1.9, 1.9]]}, "masks that cover no pixel"),
        ({"segmentation": {"size": [20, 30], "counts": [600]}}, "masks that cover no pixel"),
    ],
)
def test_nothing_is_left_out_silently(fields, found, entry, reason):
    assert fields(entry) is None
    (named,) = found.skipped.items()
    assert named[0].startswith(reason)
    assert named[1] == ["a.json annotation 1"]


def test_short_polygons_are_named_and_the_rest_kept(fields, found):
    entry = fields({"segmentation": [[1, 1, 5, 5], SQUARE, [1, 2, 3, 4, 5, 6, 7]]})
    assert entry["segmentation"] == [SQUARE]
    assert list(found.skipped.values()) == [["a.json annotation 1"] * 2]


def test_a_tiny_mask_leaves_its_box(fields, found):
    tiny = [[1.6, 1.6, 1.9, 1.6, 1.9, 1.9]]
    assert fields({"segmentation": tiny, "bbox": [1.6, 1.6, 0.3, 0.3], "area": 0.05}) == {
        "iscrowd": 0,
        "bbox": [1.6, 1.6, 0.3, 0.3],
        "area": 0.05,
    }
    assert list(found.notes.values()) == [["a.json annotation 1"]]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"has the bbox \[1, 2, 3\], expected \[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "has the bbox"),
        ({"segmentation": "x"}, "has the segmentation 'x', expected polygons"),
        ({"segmentation": [[1, 2, "3"]]}, "expected polygons"),
        ({"segmentation": [[0, 0, 5, 0, 5, float("inf")]]}, "expected polygons"),
        (
            {"segmentation": RLE | {"size": [30, 20]}},
            r"RLE of the size \[30, 20\], but its picture is",
        ),
        ({"segmentation": RLE | {"counts": [40, 20]}}, "counts that do not add up to 30 x 20"),
        ({"segmentation": RLE | {"counts": [-40, 640]}}, "counts that do not add up"),
        ({"segmentation": [[0, 0, 5, 0, 5, 1e300]]}, "lies far outside of its picture of 30 x 20"),
        ({"segmentation": RLE | {"counts": "12"}}, "counts that do not add up"),
        ({"segmentation": RLE | {"counts": "\x00"}}, "counts that do not add up"),
        ({"segmentation": RLE | {"counts": None}}, "counts that do not add up"),
    ],
)
def test_malformed_annotations(fields, entry, message):
    with pytest.raises(DatasetError, match=rf"^a.json annotation 1: .*{message}"):
        fields(entry)


@given(arrays(bool, (9, 11)))
def test_run_lengths_are_those_of_the_mask(mask):
    counts = segment_mask(mask | np.eye(9, 11, dtype=bool), "rle")["segmentation"]["counts"]
    runs = run_lengths(counts)
    assert sum(runs) == mask.size
    again = mask_util.frPyObjects({"size": [9, 11], "counts": runs}, 9, 11)
    assert again["counts"] == counts.encode()
    if counts[-1] != "0":
        assert run_lengths(counts[:-1]) is None or sum(run_lengths(counts[:-1])) != mask.size
