"""RoIAlign with the level of each box given by the caller, in place of Eq. (1)."""

from __future__ import annotations

import pytest
import torch

from mrcnn_plugin.ops import multi_level_roi_align, roi_align
from mrcnn_plugin.ops.reference import roi_align as reference

SCALES = [1 / 4, 1 / 8, 1 / 16]
ROIS = torch.tensor([[0.0, 3, 5, 40, 33], [1, 0, 0, 60, 47], [1, 20, 9, 24, 12], [0, -8, -9, 90, 70]])


def pyramid(channels_last=False, dtype=torch.float32, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(2, 5, *size, generator=generator, dtype=dtype)
        .contiguous(memory_format=memory_format)
        .requires_grad_(requires_grad)
        for size in [(12, 16), (6, 8), (3, 4)]
    ]


@pytest.mark.usefixtures("kernels")
def test_values_tell_the_level():
    """Each map holds its own offset; Eq. (1) would pool all four from the first."""
    features = [torch.full((2, 1, 8, 8), float(offset)) for offset in range(3)]
    boxes = torch.tensor([[0.0, 1, 1, 9, 9]]).repeat(4, 1)
    levels = torch.tensor([2, 0, 1, 2])
    pooled = multi_level_roi_align(features, boxes, SCALES, 2, 2, levels=levels)
    assert pooled.mean(dim=(1, 2, 3)).tolist() == [2, 0, 1, 2]
    assert multi_level_roi_align(features, boxes, SCALES, 2, 2).unique().tolist() == [0]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_all_levels_in_one_call_equal_a_call_for_each(channels_last, mode):
    features = pyramid(channels_last, requires_grad=True)
    levels = torch.arange(3).repeat_interleave(len(ROIS))
    pooled = multi_level_roi_align(features, ROIS.repeat(3, 1), SCALES, (4, 3), 0, mode=mode, levels=levels)
    apart = [
        roi_align(feature, ROIS, (4, 3), scale, 0, True, mode=mode)
        for feature, scale in zip(features, SCALES)
    ]
    torch.testing.assert_close(pooled, torch.cat(apart))
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((pooled * weights).sum(), features)
    expected = torch.autograd.grad((torch.cat(apart) * weights).sum(), features)
    for grad, want in zip(grads, expected):
        torch.testing.assert_close(grad, want)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_equals_the_reference(mode):
    features = pyramid(dtype=torch.float64)
    levels = torch.tensor([2, 0, 1, 0])
    boxes = ROIS.double()
    pooled = multi_level_roi_align(features, boxes, SCALES, 3, 2, mode=mode, levels=levels)
    arguments = (3, 3, 2, 224.0, 4, True, mode == "max", levels)
    torch.testing.assert_close(pooled, reference.multi_level_roi_align(features, boxes, SCALES, *arguments))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradcheck(channels_last):
    features = pyramid(channels_last, torch.float64, requires_grad=True)
    levels = torch.tensor([1, 2, 0, 2])

    def function(*maps):
        return multi_level_roi_align(maps, ROIS.double(), SCALES, 2, 0, levels=levels)

    assert torch.autograd.gradcheck(function, features)


def test_opcheck():
    tail = (0, 32.0, 2, True, False)
    levels = torch.tensor([1, 2, 0, 2])
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.multi_level_roi_align.default,
        (pyramid(requires_grad=True), ROIS, SCALES, 3, 2, *tail, levels),
    )
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.multi_level_roi_align_backward.default,
        (torch.randn(4, 5, 3, 2), pyramid(), ROIS, SCALES, *tail, False, levels),
    )


def test_compile_and_strides():
    """Every second element of a longer tensor: the kernels read dense memory."""

    def function(features, boxes, levels):
        return multi_level_roi_align(features, boxes, SCALES, 3, 2, levels=levels)

    levels = torch.tensor([1, 9, 2, 9, 0, 9, 2, 9])[::2]
    expected = function(pyramid(), ROIS, levels.clone())
    assert torch.equal(function(pyramid(), ROIS, levels), expected)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(pyramid(), ROIS, levels), expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"levels must have shape \(K,\) = \(4,\), got \(3,\)"),
        (torch.zeros(4, 1, dtype=torch.int64), r"levels must have shape"),
        (torch.zeros(4), "levels must be int64"),
        (torch.zeros(4, dtype=torch.int64, device="meta"), "on the device of the boxes"),
        (torch.tensor([0, 1, 3, 0]), r"levels\[2\] must be in \[0, 3\), got 3"),
        (torch.tensor([-1, 1, 1, 0]), r"levels\[0\] must be in \[0, 3\), got -1"),
    ],
)
def test_bad_levels(levels, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        multi_level_roi_align(pyramid(), ROIS, SCALES, 2, 2, levels=levels)


@pytest.mark.parametrize(
    "levels", [torch.zeros(3, dtype=torch.int64), torch.zeros(4), torch.tensor([[0] * 4])]
)
def test_the_op_itself_checks_what_the_wrapper_checks(levels):
    op = torch.ops.mrcnn_plugin.multi_level_roi_align
    with pytest.raises(RuntimeError, match="levels must"):
        op(pyramid(), ROIS, SCALES, 2, 2, 2, 224.0, 4, True, False, levels)


def test_the_reference_checks_the_values():
    tail = (2, 2, 2, 224.0, 4, True, False, torch.tensor([0, 1, 3, 0]))
    with pytest.raises(ValueError, match=r"levels\[2\] must be in \[0, 3\)"):
        reference.multi_level_roi_align(pyramid(), ROIS, SCALES, *tail)


@pytest.mark.usefixtures("kernels")
def test_no_boxes():
    features = pyramid(requires_grad=True)
    pooled = multi_level_roi_align(features, ROIS[:0], SCALES, 2, 2, levels=torch.zeros(0, dtype=torch.int64))
    assert pooled.shape == (0, 5, 2, 2)
    pooled.sum().backward()
    assert all(feature.grad.count_nonzero() == 0 for feature in features)
