"""Masks as polygons and RLE, against pycocotools."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mrcnn_plugin.data.convert.masks import decode_segmentation, join_holes, segment_mask, segment_polygons


def ring() -> np.ndarray:
    mask = np.zeros((12, 10), bool)
    mask[2:10, 1:9] = True
    mask[4:7, 3:6] = False
    return mask


some_masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda shape: arrays(bool, shape))


@given(some_masks, st.sampled_from(["auto", "polygon", "rle"]))
def test_every_form_draws_the_mask_again(mask, form):
    fields = segment_mask(mask, form)
    if not mask.any():
        assert fields is None
        return
    np.testing.assert_array_equal(decode_segmentation(fields["segmentation"], *mask.shape), mask)
    rows, columns = np.nonzero(mask)
    x, y = columns.min(), rows.min()
    assert fields["area"] == mask.sum()
    assert fields["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
    if form != "auto":
        assert isinstance(fields["segmentation"], {"polygon": list, "rle": dict}[form])


def test_a_rectangle_is_its_four_corners():
    mask = np.zeros((10, 12), bool)
    mask[3:8, 2:11] = True
    fields = segment_mask(mask)
    (polygon,) = fields["segmentation"]
    assert {tuple(point) for point in np.reshape(polygon, (-1, 2))} == {(2, 3), (11, 3), (11, 8), (2, 8)}
    assert (fields["area"], fields["bbox"]) == (45, [2, 3, 9, 5])


def test_parts_are_polygons_of_one_instance():
    mask = np.zeros((10, 12), bool)
    mask[1:4, 1:4] = mask[6:9, 7:11] = True
    assert len(segment_mask(mask)["segmentation"]) == 2


def test_holes_make_rle_unless_polygons_are_forced():
    mask = ring()
    assert isinstance(segment_mask(mask)["segmentation"], dict)
    forced = segment_mask(mask, "polygon")
    assert len(forced["segmentation"]) == 1
    np.testing.assert_array_equal(decode_segmentation(forced["segmentation"], *mask.shape), mask)
    assert forced["area"] == 8 * 8 - 3 * 3


def test_a_hole_is_entered_and_left_at_the_same_points():
    outline = np.array([[0, 0], [9, 0], [9, 9], [0, 9]])
    hole = np.array([[5, 3], [3, 3], [3, 5], [5, 5]])
    joined = join_holes(outline, [hole]).tolist()
    assert joined == [[0, 0], [3, 3], [3, 5], [5, 5], [5, 3], [3, 3], [0, 0], [9, 0], [9, 9], [0, 9]]


def test_polygons_that_miss_the_mask_become_rle(monkeypatch):
    """Where drawing is less exact than the threshold, "auto" keeps the mask itself."""
    mask = ring()
    mask[4:7, 3:6] = True
    shifted = mask_util.encode(np.asfortranarray(np.roll(mask, 1, axis=1), np.uint8))
    monkeypatch.setattr("mrcnn_plugin.data.convert.masks.merge_polygons", lambda *_: shifted)
    segmentation = segment_mask(mask)["segmentation"]
    assert isinstance(segmentation, dict)
    np.testing.assert_array_equal(decode_segmentation(segmentation, *mask.shape), mask)


corner = st.tuples(st.floats(-3, 23, width=32), st.floats(-3, 19, width=32))


@given(st.lists(st.lists(corner, min_size=3, max_size=7), min_size=1, max_size=3))
def test_polygons_are_measured_as_pycocotools_draws_them(polygons):
    arrays_ = [np.array(polygon, np.float64) for polygon in polygons]
    fields = segment_polygons(arrays_, 16, 20)
    rounded = [np.round(polygon, 3).ravel().tolist() for polygon in arrays_]
    mask = mask_util.decode(mask_util.frPyObjects(rounded, 16, 20)).any(axis=2)
    if not mask.any():
        assert fields is None
        return
    assert fields["segmentation"] == rounded
    assert fields["area"] == mask.sum()
    as_rle = segment_polygons(arrays_, 16, 20, "rle")
    np.testing.assert_array_equal(decode_segmentation(as_rle["segmentation"], 16, 20), mask)
    assert as_rle["bbox"] == fields["bbox"]


@pytest.mark.parametrize("form", ["auto", "rle"])
def test_polygons_between_pixel_centres_are_nothing(form):
    assert segment_polygons([np.array([[1.6, 1.6], [1.9, 1.6], [1.9, 1.9]])], 5, 5, form) is None


def test_uncompressed_rle_is_decoded():
    mask = decode_segmentation({"size": [3, 4], "counts": [3, 6, 3]}, 3, 4)
    np.testing.assert_array_equal(mask, np.array([[0, 1, 1, 0]] * 3, bool))
