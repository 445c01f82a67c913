import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from helpers.polygon_cases import detectron2_masks, instances
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_plugin.ops import pack_polygons, rasterize_polygons, reference
from mrcnn_plugin.ops.library import native

SQUARE = [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]
BOX = torch.tensor([[0.0, 0.0, 8.0, 8.0]])


def test_equal_to_detectron2_on_ten_thousand_instances():
    polygons, boxes = instances(10_000)
    masks = rasterize_polygons(polygons, boxes, 14)
    assert masks.dtype == torch.bool
    assert 0.1 < masks.float().mean() < 0.9
    assert torch.equal(masks, detectron2_masks(polygons, boxes, 14))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask_size", [1, 7, 28, 64, 65, 130])
def test_equal_to_detectron2(mask_size, dtype):
    polygons, boxes = instances(150, seed=mask_size)
    boxes = boxes.to(dtype)
    expected = detectron2_masks(polygons, boxes, mask_size)
    assert torch.equal(rasterize_polygons(polygons, boxes, mask_size), expected)
    assert torch.equal(
        reference.polygons.rasterize_polygons(*pack_polygons(polygons), boxes, mask_size), expected
    )


def test_hand_computed():
    inside = torch.zeros(8, dtype=torch.bool)
    inside[2:6] = True
    square = inside[:, None] & inside
    assert torch.equal(rasterize_polygons([[SQUARE]], BOX, 8)[0], square)
    # The box cuts the square's lower right quarter out and enlarges it twofold.
    quarter = rasterize_polygons([[SQUARE]], torch.tensor([[4.0, 4.0, 8.0, 8.0]]), 8)[0]
    assert torch.equal(quarter, torch.arange(8)[:, None].maximum(torch.arange(8)) < 4)
    # Twice the same outline in one polygon cancels; as two polygons it adds up.
    assert not rasterize_polygons([[SQUARE * 2]], BOX, 8).any()
    assert torch.equal(rasterize_polygons([[SQUARE, SQUARE]], BOX, 8)[0], square)


def test_kinds_of_polygons():
    expected = rasterize_polygons([[SQUARE]], BOX, 8)
    for kind in (tuple, np.array, torch.tensor, lambda p: np.array(p, dtype=np.int32)):
        assert torch.equal(rasterize_polygons([[kind(SQUARE)]], BOX, 8), expected)
    packed = pack_polygons([[SQUARE]])
    assert torch.equal(rasterize_polygons(packed, Boxes(BOX), 8), expected)
    assert torch.equal(rasterize_polygons(packed, BOX.half(), 8), expected)
    assert packed.coords.tolist() == SQUARE
    assert packed.polygon_offsets.tolist() == [0, 8]
    assert packed.instance_offsets.tolist() == [0, 1]


def test_empty():
    assert rasterize_polygons([], torch.zeros(0, 4), 28).shape == (0, 28, 28)
    masks = rasterize_polygons([[], [SQUARE], []], BOX.repeat(3, 1), 8)
    assert masks.any(dim=2).any(dim=1).tolist() == [False, True, False]


def test_far_coordinates_and_bad_boxes():
    """Beyond what pycocotools can walk: the half plane x < 4 stays one; odd boxes give nothing."""
    far = [-1e12, -1e12, 4.0, -1e12, 4.0, 1e12, -1e12, 1e12]
    mask = rasterize_polygons([[far]], BOX, 8)[0]
    assert torch.equal(mask, torch.arange(8).expand(8, 8) < 4)
    # A steep edge of 2^32 steps, which is in the middle of the mask at the 2^31st: so says its column there.
    steep = [0.0, -1e12, 8.0, 1e12, 1e12, 1e12, 1e12, -1e12]
    assert torch.equal(rasterize_polygons([[steep]], BOX, 8)[0], torch.arange(8).expand(8, 8) >= 4)
    odd = torch.tensor([[math.nan, 0, 8, 8], [0, 0, math.inf, 8], [-3e38, 0, 3e38, 8], [8, 8, 0, 0.0]])
    masks = rasterize_polygons([[SQUARE]] * 4, odd, 8)
    assert not masks[:3].any()


@pytest.mark.parametrize(
    ("polygons", "boxes", "mask_size", "error", "message"),
    [
        ([[SQUARE]], torch.zeros(2, 4), 8, ValueError, r"boxes must have shape \(K, 4\) with K = 1 as in"),
        ([[SQUARE]], torch.zeros(1, 5), 8, ValueError, r"got \(1, 5\)"),
        ([[SQUARE]], [[0.0, 0.0, 1.0, 1.0]], 8, TypeError, "boxes must be a floating torch.Tensor, got list"),
        ([[SQUARE]], torch.zeros(1, 4, dtype=torch.int64), 8, TypeError, "got torch.int64"),
        ([[SQUARE]], BOX, 0, ValueError, "mask_size must be 1 to 4096, got 0"),
        ([[SQUARE]], BOX, 2.5, TypeError, "float"),
        ([[SQUARE, SQUARE[:4]]], BOX, 8, ValueError, r"at least 3 points, got shape \(4,\) for polygon 1 of"),
        (
            [[], [SQUARE[:7]]],
            BOX.repeat(2, 1),
            8,
            ValueError,
            r"got shape \(7,\) for polygon 0 of instance 1",
        ),
        ([[np.zeros((4, 2))]], BOX, 8, ValueError, r"got shape \(4, 2\)"),
        (
            [[SQUARE], [[*SQUARE, 1.0, math.nan]]],
            BOX.repeat(2, 1),
            8,
            ValueError,
            "finite, polygon 0 of instance 1",
        ),
    ],
)
def test_errors(polygons, boxes, mask_size, error, message):
    with pytest.raises(error, match=message):
        rasterize_polygons(polygons, boxes, mask_size)


coordinate = st.one_of(
    st.floats(-40, 60), st.integers(-10, 40).map(float), st.sampled_from([0.0, 900.0, -700.0])
)
outline = st.lists(coordinate, min_size=6, max_size=24).map(lambda c: c[: len(c) // 2 * 2])


@settings(max_examples=100, deadline=None)
@given(
    polygons=st.lists(st.lists(outline, max_size=3), max_size=3),
    box=st.tuples(st.floats(-20, 30), st.floats(-20, 30), st.floats(0.5, 60), st.floats(0.5, 60)),
    mask_size=st.integers(1, 40),
)
def test_fuzz(polygons, box, mask_size):
    x, y, w, h = box
    boxes = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32).repeat(len(polygons), 1)
    masks = rasterize_polygons(polygons, boxes, mask_size)
    assert masks.shape == (len(polygons), mask_size, mask_size)
    if polygons:
        arrays = [[np.array(p) for p in instance] for instance in polygons]
        assert torch.equal(masks, detectron2_masks(arrays, boxes, mask_size))


@pytest.mark.skipif(not native("cpu"), reason="native ops are not built")
class TestNative:
    op = staticmethod(torch.ops.mrcnn_plugin.rasterize_polygons)

    def test_opcheck(self):
        polygons, boxes = instances(4)
        torch.library.opcheck(self.op.default, (*pack_polygons(polygons), boxes, 14))

    @pytest.mark.parametrize(
        ("polygon_offsets", "instance_offsets", "message"),
        [
            ([0, 8, 9], [0, 1], "polygon_offsets must run from 0 to 8, got 0 to 9"),
            ([-8, 8], [0, 1], "polygon_offsets must run from 0"),
            ([0, 9, 8], [0, 2], "polygon_offsets must not decrease, got 9 before 8"),
            ([0, 8], [0, 2], "instance_offsets must run from 0 to 1, got 0 to 2"),
            ([0, 8], [0, 1, 1], "instance_offsets must be a flat int64 tensor of K"),
            ([0, 4, 8], [0, 2], "at least 3 points"),
            ([], [0, 1], "polygon_offsets must be a flat int64 tensor"),
        ],
    )
    def test_offsets_are_checked(self, polygon_offsets, instance_offsets, message):
        offsets = [torch.tensor(o, dtype=torch.int64) for o in (polygon_offsets, instance_offsets)]
        with pytest.raises(RuntimeError, match=message):
            self.op(torch.tensor(SQUARE, dtype=torch.float64), *offsets, BOX, 8)
