import math

import numpy as np
import pytest
import torch
from helpers.mask_cases import blobs, paste_inputs, random_boxes
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from mrcnn_plugin.ops import encode_masks, paste_masks, reference
from mrcnn_plugin.ops.library import native

SHAPE = (120, 170)


def coco_encode(masks, boxes, shape, threshold=0.5):
    pasted = paste_masks(masks, boxes, shape, threshold).cpu().numpy().astype(np.uint8)
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in pasted]


def assert_equals_pycocotools(masks, boxes, shape, threshold=0.5):
    expected = coco_encode(masks.cpu(), boxes.cpu(), shape, threshold)
    rles, areas, tight = encode_masks(masks, boxes, shape, threshold, return_stats=True)
    assert rles == expected
    assert areas.tolist() == [int(coco_mask.area(rle)) for rle in expected]
    assert tight.tolist() == [coco_mask.toBbox(rle).tolist() for rle in expected]


@pytest.mark.parametrize(
    ("mask", "box", "shape", "counts", "area", "tight"),
    [
        # 2x3 image: a full mask is no zeros, then six ones: characters of 0 and 6.
        ([[1.0]], [-1.0, -1.0, 4.0, 3.0], (2, 3), b"06", 6, [0, 0, 3, 2]),
        # Nothing: one run of six zeros.
        ([[0.0]], [0.0, 0.0, 3.0, 2.0], (2, 3), b"6", 0, [0, 0, 0, 0]),
        # The left of two columns, 16 high: runs 0, 16, 16; 16 takes two characters.
        ([[1.0]], [0.0, 0.0, 1.0, 16.0], (16, 2), b"0`0`0", 16, [0, 0, 1, 16]),
        # Middle rows of both columns of a 4x2 image: runs 1 2 2 2 1, the last two as 2-2 and 1-2.
        ([[1.0]], [-1.0, 1.0, 3.0, 3.0], (4, 2), b"1220O", 4, [0, 1, 2, 2]),
    ],
)
def test_hand_computed(mask, box, shape, counts, area, tight):
    rles, areas, boxes = encode_masks(torch.tensor([mask]), torch.tensor([box]), shape, return_stats=True)
    assert rles == [{"size": list(shape), "counts": counts}]
    assert areas.dtype == torch.int64
    assert areas.tolist() == [area]
    assert boxes.dtype == torch.float64
    assert boxes.tolist() == [tight]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 14, 28, (9, 41)])
def test_equals_pycocotools(size, threshold):
    masks = blobs(50, size) if isinstance(size, int) else torch.rand(50, *size)
    assert_equals_pycocotools(masks, random_boxes(50, *SHAPE), SHAPE, threshold)


@pytest.mark.parametrize("kind", ["blobs", "noise", "binary"])
def test_equals_pycocotools_on_large_images(kind):
    """Runs of many characters, boxes of full height and columns longer than one vector block."""
    masks = blobs(6) if kind == "blobs" else torch.rand(6, 28, 28, generator=torch.Generator().manual_seed(2))
    masks = masks.round() if kind == "binary" else masks
    boxes = random_boxes(6, 1500, 1100)
    boxes[0] = torch.tensor([100.0, -20.0, 800.0, 1520.0])
    boxes[1] = torch.tensor([-10.0, -10.0, 1110.0, 1510.0])
    assert_equals_pycocotools(masks, boxes, (1500, 1100))


@settings(max_examples=200, deadline=None)
@given(paste_inputs())
def test_equals_pycocotools_on_odd_inputs(inputs):
    assert_equals_pycocotools(*inputs)


@settings(max_examples=30, deadline=None)
@given(paste_inputs())
def test_equals_reference(inputs):
    masks, boxes, shape, threshold = inputs
    got = torch.ops.mrcnn_plugin.encode_masks(masks, boxes, *shape, threshold)
    expected = reference.masks.encode_masks(masks, boxes, *shape, threshold)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("margin", [0.0, 1e-7, 3e-7, 1e-6, 3e-6])
def test_plateau_at_the_threshold(margin):
    """Cells whose corners all lie within rounding of the threshold are settled pixel by pixel."""
    noise = torch.rand(20, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1
    for threshold in (0.5, 1 / 3, 0.9):
        assert_equals_pycocotools(threshold + margin * noise, random_boxes(20, *SHAPE), SHAPE, threshold)


def test_empty_inputs_and_sizes():
    masks, boxes = blobs(4), random_boxes(4, *SHAPE)
    assert encode_masks(masks[:0], boxes[:0], SHAPE) == []
    rles, areas, tight = encode_masks(masks[:0], boxes[:0], SHAPE, return_stats=True)
    assert (rles, areas.shape, tight.shape) == ([], (0,), (0, 4))
    assert encode_masks(masks, boxes, (0, 9)) == [{"size": [0, 9], "counts": b"0"}] * 4
    for shape in ((1, 200), (200, 1), (1, 1)):
        assert_equals_pycocotools(masks, boxes, shape)
    half = masks.half()
    assert encode_masks(half, boxes, SHAPE) == encode_masks(half.float(), boxes, SHAPE)


def test_no_image_sized_buffer():
    """An image whose masks would take 4 TiB; runs near the end of 32 bits."""
    boxes = torch.tensor([[65520.0, 10.0, 65600.0, 65530.0], [10.0, 10.0, 20.0, 20.0]]).repeat(512, 1)
    rles, areas, tight = encode_masks(torch.ones(1024, 4, 4), boxes, (65535, 65535), return_stats=True)
    assert areas[1] == 96, "a 10x10 box less its four corners, whose values are below 1/2"
    assert areas[0] > 14 * 65500
    assert tight[:2].tolist() == [[65520, 10, 15, 65520], [10, 10, 10, 10]]
    assert [int(a) for a in coco_mask.area(rles[:2])] == areas[:2].tolist()
    assert rles[2:4] == rles[:2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"threshold": -1.0}, ValueError, "threshold must be >= 0"),
        ({"threshold": math.nan}, ValueError, "threshold must be a number"),
        ({"image_shape": (2**16, 2**16)}, ValueError, r"fewer than 2\*\*32 pixels"),
        ({"boxes": torch.rand(2, 5)}, ValueError, r"boxes must have shape \(K, 4\)"),
        ({"masks": torch.rand(2, 7)}, ValueError, r"masks must have shape \(K, Mh, Mw\)"),
    ],
)
def test_errors(change, error, message):
    arguments = {"masks": torch.rand(2, 7, 7), "boxes": torch.rand(2, 4), "image_shape": (5, 5)} | change
    with pytest.raises(error, match=message):
        encode_masks(**arguments)


def test_native_op_checks_its_own_inputs():
    assert native("cpu")
    op = torch.ops.mrcnn_plugin.encode_masks
    masks, boxes = torch.rand(2, 7, 7), torch.rand(2, 4)
    for bad in (
        (masks.double(), boxes, 5, 5, 0.5),
        (masks, boxes[:1], 5, 5, 0.5),
        (masks, boxes, 5, 5, -0.5),
        (masks, boxes, 2**20, 2**20, 0.5),
    ):
        with pytest.raises(RuntimeError, match="must"):
            op(*bad)


def test_opcheck_and_threads():
    masks, boxes = blobs(9), random_boxes(9, *SHAPE)
    torch.library.opcheck(torch.ops.mrcnn_plugin.encode_masks, (masks, boxes, *SHAPE, 0.5))
    expected, threads = encode_masks(masks, boxes, SHAPE), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert encode_masks(masks, boxes, SHAPE) == expected
    finally:
        torch.set_num_threads(threads)
