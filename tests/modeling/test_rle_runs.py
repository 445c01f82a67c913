"""RLEs by their runs: pycocotools and dense masks as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_util

from mrcnn_plugin.modeling.rle_runs import cropped, from_segments, moved, run_lengths, segments

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def encode(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_hand_computed():
    mask = np.array([[0, 1, 1], [1, 1, 0]], dtype=bool)
    # Down the columns: 0 1 | 1 1 | 1 0.
    assert run_lengths(encode(mask)).tolist() == [1, 4, 1]
    parts = segments(encode(mask))
    assert [part.tolist() for part in parts] == [[0, 1, 2], [1, 0, 0], [2, 2, 1]]
    crop, x, y = cropped(encode(np.pad(mask, ((2, 0), (1, 0)))))
    assert (crop == mask).all()
    assert (x, y) == (1, 2)


@given(counts=st.lists(st.integers(1, 2**31 // 40), min_size=1, max_size=30))
def test_run_lengths_are_those_that_were_compressed(counts):
    rle = mask_util.frPyObjects({"size": [1, sum(counts)], "counts": counts}, 1, sum(counts))
    assert run_lengths(rle).tolist() == counts
    assert run_lengths({**rle, "counts": rle["counts"].decode()}).tolist() == counts
    assert run_lengths({"size": [1, sum(counts)], "counts": counts}).tolist() == counts


@given(mask=MASKS)
def test_segments_and_back(mask):
    assert from_segments(segments(encode(mask)), *mask.shape) == encode(mask)


@given(mask=MASKS)
def test_cropped(mask):
    crop, x, y = cropped(encode(mask))
    whole = np.zeros_like(mask)
    whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    assert (whole == mask).all()
    # Nothing smaller holds the mask.
    assert not crop.size or (crop[[0, -1]].any(axis=1).all() and crop[:, [0, -1]].any(axis=0).all())


@given(mask=MASKS, x=st.integers(0, 9), y=st.integers(0, 9), right=st.integers(0, 9), below=st.integers(0, 9))
def test_moved_is_the_padded_mask(mask, x, y, right, below):
    whole = np.pad(mask, ((y, below), (x, right)))
    assert moved(encode(mask), x, y, *whole.shape) == encode(whole)


def test_moved_out_of_the_picture_is_refused():
    with pytest.raises(ValueError, match="a part of 2 x 3 pixels at x = 2, y = 0 is not within 2 x 4"):
        moved(encode(np.ones((2, 3), bool)), 2, 0, 2, 4)
