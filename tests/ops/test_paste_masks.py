import math

import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes
from helpers.mask_cases import blobs, paste_inputs, random_boxes
from hypothesis import given, settings

from mrcnn_plugin.ops import paste_masks, reference
from mrcnn_plugin.ops.library import native

SHAPE = (120, 170)


def pixel_value(mask: list[list[float]], box: list[float], y: int, x: int) -> float:
    """Float64 bilinear sample of the mask, zeros beyond, at the centre of image pixel (y, x)."""
    height, width = len(mask), len(mask[0])
    v = (y + 0.5 - box[1]) / (box[3] - box[1]) * height - 0.5
    u = (x + 0.5 - box[0]) / (box[2] - box[0]) * width - 0.5
    total = 0.0
    for i in (math.floor(v), math.floor(v) + 1):
        for j in (math.floor(u), math.floor(u) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += mask[i][j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return total


def in_region(box: list[float], y: int, x: int) -> bool:
    return all(
        math.floor(low) - 1 <= p < math.ceil(high) + 1
        for p, low, high in ((x, box[0], box[2]), (y, box[1], box[3]))
    )


def grid_values(masks: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(K, H, W) float64 values by grid_sample over the whole image."""
    y = torch.arange(shape[0], dtype=torch.float64) + 0.5
    x = torch.arange(shape[1], dtype=torch.float64) + 0.5
    x0, y0, x1, y1 = boxes.double().split(1, dim=1)
    v, u = (y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(u[:, None], v[:, :, None]), dim=3)
    return torch.nn.functional.grid_sample(masks[:, None].double(), grid, align_corners=False)[:, 0]


def test_hand_computed():
    # One cell a quadrant of a 4x4 box: samples at -3/4 (outside it), -1/4, 1/4, 3/4, 5/4, 7/4 cells.
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    soft = paste_masks(mask, torch.tensor([[1.0, 1.0, 5.0, 5.0]]), (6, 6), threshold=-1)
    axis = torch.tensor([0.25, 0.75, 0.75, 0.25, 0.0, 0.0])
    assert soft.dtype == torch.uint8
    assert torch.equal(soft[0], (axis[:, None] * axis * 255).to(torch.uint8))
    hard = paste_masks(mask, torch.tensor([[1.0, 1.0, 5.0, 5.0]]), (6, 6), threshold=0.1875)
    assert hard.dtype == torch.bool
    assert torch.equal(hard[0], axis[:, None] * axis >= 0.1875)


def test_tie_is_inside():
    """The box's edge cuts through pixel centres: their value is half of the outer cell's, exactly 0.5."""
    mask, box = torch.ones(1, 4, 4), torch.tensor([[2.5, 2.5, 6.5, 6.5]])
    assert paste_masks(mask, box, (10, 10))[0, 4].tolist() == [False] * 2 + [True] * 5 + [False] * 3
    assert not paste_masks(mask, box, (10, 10), threshold=0.5000001)[0, 4, [2, 6]].any()


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.7, 0.0, 1.0, -1.0])
@pytest.mark.parametrize("kind", ["blobs", "noise"])
def test_equals_detectron2(kind, threshold):
    masks = (
        blobs(60) if kind == "blobs" else torch.rand(60, 28, 28, generator=torch.Generator().manual_seed(1))
    )
    boxes = random_boxes(60, *SHAPE)
    expected = paste_masks_in_image(masks, Boxes(boxes), SHAPE, threshold)
    got = paste_masks(masks, Boxes(boxes), SHAPE, threshold)
    assert got.dtype == expected.dtype
    # Ties: pixels whose float64 value is within float32 rounding of a step. Only they may differ.
    values = grid_values(masks, boxes, SHAPE)
    values = values - threshold if threshold >= 0 else values * 255 - (values * 255).round()
    tie = values.abs() < 1e-4
    assert torch.equal(got[~tie], expected[~tie])
    if threshold > 0 and threshold < 1:
        assert tie.sum() < 500, "of 1.2 million pixels"
    if threshold == 0.5:
        assert 40_000 < got.sum() < 1_000_000


@settings(max_examples=150, deadline=None)
@given(paste_inputs())
def test_equals_reference(inputs):
    masks, boxes, shape, threshold = inputs
    for t in (threshold, -1.0):
        assert torch.equal(
            paste_masks(masks, boxes, shape, t), reference.masks.paste_masks(masks, boxes, *shape, t)
        )


@settings(max_examples=40, deadline=None)
@given(paste_inputs(odd=False))
def test_equals_float64_loop(inputs):
    masks, boxes, (height, width), threshold = inputs
    height, width = min(height, 24), min(width, 24)
    got = paste_masks(masks, boxes, (height, width), threshold)
    for i, (mask, box) in enumerate(zip(masks.tolist(), boxes.tolist())):
        if min(box[2] - box[0], box[3] - box[1]) < 0.01:
            continue
        for y in range(height):
            for x in range(width):
                value = pixel_value(mask, box, y, x)
                if not in_region(box, y, x):
                    assert not got[i, y, x]
                elif abs(value - threshold) > 1e-3:
                    assert got[i, y, x] == (value >= threshold)


@pytest.mark.parametrize(
    "box",
    [
        [5.0, 5.0, 5.0, 9.0],
        [5.5, 5.5, 5.5, 5.5],
        [-9.0, -9.0, -2.0, -2.0],
        [300.0, 0.0, 320.0, 9.0],
        [9.0, 9.0, 2.0, 2.0],
        [math.nan, 0.0, 9.0, 9.0],
        [0.0, 0.0, 9.0, math.nan],
        [-math.inf, 0.0, math.inf, 9.0],
    ],
)
def test_boxes_that_set_nothing(box):
    assert not paste_masks(torch.ones(1, 7, 7), torch.tensor([box]), (20, 20)).any()


def test_threshold_zero_sets_the_region_and_nan_sets_nothing():
    box = torch.tensor([[3.2, 4.0, 6.5, 8.1]])
    got = paste_masks(torch.zeros(1, 5, 5), box, (20, 20), threshold=0.0)[0]
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[3:10, 2:8] = True
    assert torch.equal(got, expected)
    nan = torch.full((1, 5, 5), math.nan)
    assert not paste_masks(nan, torch.tensor([[0.0, 0.0, 20.0, 20.0]]), (20, 20), threshold=0.0).any()
    assert not paste_masks(nan, box, (20, 20), threshold=-1).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.bool])
def test_dtypes_are_computed_in_float32(dtype):
    masks, boxes = blobs(8), random_boxes(8, *SHAPE).half()
    masks = (masks > 0.5).to(dtype) if not dtype.is_floating_point else masks.to(dtype)
    assert torch.equal(paste_masks(masks, boxes, SHAPE), paste_masks(masks.float(), boxes.float(), SHAPE))


def test_strides_gradients_and_sizes():
    masks, boxes = blobs(6, size=14), random_boxes(6, *SHAPE)
    expected = paste_masks(masks, boxes, SHAPE)
    strided = masks.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert torch.equal(paste_masks(strided, boxes.t().contiguous().t(), torch.Size(SHAPE)), expected)
    assert paste_masks(masks[:0], boxes[:0], SHAPE).shape == (0, *SHAPE)
    assert paste_masks(masks[:0, :0], boxes[:0], SHAPE).dtype == torch.bool
    assert paste_masks(masks, boxes, (0, 5)).shape == (6, 0, 5)
    assert torch.equal(
        paste_masks(torch.ones(1, 1, 1), torch.tensor([[0.0, 0.0, 3.0, 1.0]]), (1, 3)),
        torch.ones(1, 1, 3).bool(),
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"masks": torch.rand(2, 1, 7, 7)},
            ValueError,
            r"masks must have shape \(K, Mh, Mw\).*got \(2, 1, 7, 7\)",
        ),
        ({"masks": torch.rand(2, 0, 7)}, ValueError, "Mh, Mw >= 1"),
        ({"masks": [[1.0]]}, TypeError, "masks must be a torch.Tensor, got list"),
        ({"masks": torch.rand(2, 7, 7) * 1j}, TypeError, "real dtype"),
        ({"boxes": torch.rand(2, 5)}, ValueError, r"boxes must have shape \(K, 4\) with K = 2, got \(2, 5\)"),
        ({"boxes": torch.rand(3, 4)}, ValueError, r"K = 2, got \(3, 4\)"),
        ({"boxes": torch.rand(2, 4, device="meta")}, ValueError, "device of masks, cpu, got meta"),
        ({"image_shape": (-1, 5)}, ValueError, r"image_shape must be .* >= 0, got \(-1, 5\)"),
        ({"image_shape": (5, 5, 3)}, TypeError, "two integers"),
        ({"image_shape": (5.5, 5)}, TypeError, "two integers"),
        ({"image_shape": 5}, TypeError, "two integers"),
        ({"threshold": math.nan}, ValueError, "threshold must be a number"),
    ],
)
def test_errors(change, error, message):
    arguments = {"masks": torch.rand(2, 7, 7), "boxes": torch.rand(2, 4), "image_shape": (5, 5)} | change
    with pytest.raises(error, match=message):
        paste_masks(**arguments)


def test_native_op_checks_its_own_inputs():
    assert native("cpu")
    op = torch.ops.mrcnn_plugin.paste_masks
    masks, boxes = torch.rand(2, 7, 7), torch.rand(2, 4)
    for bad in (
        (masks.double(), boxes, 5, 5, 0.5),
        (masks.transpose(0, 2), boxes, 5, 5, 0.5),
        (masks, boxes[:1], 5, 5, 0.5),
        (masks, boxes, -5, 5, 0.5),
        (masks, boxes, 2**40, 0, 0.5),
        (masks, boxes, 5, 5, math.nan),
    ):
        with pytest.raises(RuntimeError, match="must"):
            op(*bad)


def test_opcheck_and_compile():
    masks, boxes = blobs(3), random_boxes(3, *SHAPE)
    torch.library.opcheck(torch.ops.mrcnn_plugin.paste_masks, (masks, boxes, *SHAPE, 0.5))
    torch.library.opcheck(torch.ops.mrcnn_plugin.paste_masks, (masks, boxes, *SHAPE, -1.0))
    compiled = torch.compile(lambda m, b: paste_masks(m, b, SHAPE), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(masks, boxes), paste_masks(masks, boxes, SHAPE))


def test_any_number_of_threads():
    masks, boxes = blobs(9), random_boxes(9, *SHAPE)
    expected, threads = paste_masks(masks, boxes, SHAPE), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(paste_masks(masks, boxes, SHAPE), expected)
    finally:
        torch.set_num_threads(threads)
