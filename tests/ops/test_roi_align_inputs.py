"""RoIAlign on unusual input: nothing crashes, reads out of bounds, hangs, or passes silently."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrcnn_plugin.ops import multi_level_roi_align, roi_align

FEATURES = torch.arange(2 * 3 * 6 * 8, dtype=torch.float32).reshape(2, 3, 6, 8)
ROI = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0]])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(3, 4), r"boxes must have shape \(K, 5\), got \(3, 4\)"),
        (torch.zeros(5), r"boxes must have shape \(K, 5\), got \(5,\)"),
        (torch.zeros(1, 5, dtype=torch.int64), "boxes must be float32.*int64"),
        (torch.zeros(1, 5, dtype=torch.float64), "boxes must be float32.*float64"),
        (torch.tensor([[2.0, 0, 0, 1, 1]]), r"batch index, must be in \[0, 2\), got 2"),
        (torch.tensor([[-1.0, 0, 0, 1, 1]]), r"boxes\[0, 0\].*must be in \[0, 2\), got -1"),
        (torch.tensor([[math.nan, 0, 0, 1, 1]]), "batch index"),
        (torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, math.nan, 1, 1]]), r"boxes\[1\] must be finite"),
        (torch.tensor([[0.0, 0, -math.inf, 1, 1]]), r"boxes\[0\] must be finite"),
        ([torch.zeros(1, 4)], "list of 2 tensors"),
        ([torch.zeros(1, 4), torch.zeros(1, 5)], r"boxes\[1\] must have shape \(K, 4\), got \[1, 5\]"),
        (torch.zeros(1, 5, device="meta"), "device"),
    ],
)
def test_bad_boxes(boxes, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        roi_align(FEATURES, boxes, 2)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("features", "arguments", "message"),
    [
        (FEATURES[0], {}, r"features\[0\] must have shape"),
        (FEATURES.int(), {}, "features must have one of the dtypes"),
        (FEATURES, {"output_size": 0}, "output_size must be between 1"),
        (FEATURES, {"output_size": (2, 2, 2)}, "output_size must be a number or a pair"),
        (FEATURES, {"spatial_scale": 0.0}, r"scales\[0\] must be positive"),
        (FEATURES, {"spatial_scale": math.nan}, r"scales\[0\] must be positive"),
        (FEATURES, {"mode": "sum"}, "mode must be one of"),
        # The work goes with it: any larger one would not end.
        (FEATURES, {"sampling_ratio": 4097}, "sampling_ratio must be at most 4096"),
        (FEATURES[:, :, :0], {}, "1 <= H, W"),
    ],
)
def test_bad_arguments(features, arguments, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        roi_align(features, ROI, **{"output_size": 2, **arguments})


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("features", "scales", "message"),
    [
        ([], [], "one entry per level"),
        ([FEATURES], [1.0, 0.5], "one entry per level"),
        ([FEATURES, FEATURES.double()], [1.0, 0.5], r"dtype and device of features\[0\]"),
        ([FEATURES, FEATURES[:1]], [1.0, 0.5], r"features\[1\] must have shape"),
        ([FEATURES, FEATURES.to("meta")], [1.0, 0.5], r"dtype and device of features\[0\]"),
    ],
)
def test_bad_pyramids(features, scales, message):
    with pytest.raises(ValueError, match=message):
        multi_level_roi_align(features, ROI, scales, 2, 2)


def test_the_op_itself_checks_what_the_wrapper_checks():
    op = torch.ops.mrcnn_plugin.multi_level_roi_align
    tail = (2, 2, 2, 224.0, 4, True, False)
    good = ([FEATURES], ROI, [1.0])
    assert op(*good, *tail).shape == (1, 3, 2, 2)
    bad = [
        ([], ROI, []),
        ([FEATURES], ROI, []),
        ([FEATURES[0]], ROI, [1.0]),
        ([FEATURES], ROI[:, :4], [1.0]),
        ([FEATURES], ROI[0], [1.0]),
        ([FEATURES], ROI.double(), [1.0]),
        ([FEATURES, FEATURES.double()], ROI, [1.0, 0.5]),
        ([FEATURES.int()], ROI, [1.0]),
    ]
    for arguments in bad:
        with pytest.raises(RuntimeError, match="must"):
            op(*arguments, *tail)
    backward = torch.ops.mrcnn_plugin.multi_level_roi_align_backward
    for grad in (
        torch.zeros(1, 3, 2),
        torch.zeros(2, 3, 2, 2),
        torch.zeros(1, 2, 2, 2),
        torch.zeros(1, 3, 2, 2).double(),
    ):
        with pytest.raises(RuntimeError, match="grad_output must"):
            backward(grad, *good, 2, 224.0, 4, True, False, False)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (2, 0, 6, 8), (0, 3, 6, 8)])
def test_empty(shape, mode):
    features = torch.randn(shape, requires_grad=True)
    boxes = torch.zeros(0 if shape[0] == 0 or shape[1] else 4, 5)
    output = roi_align(features, boxes, (7, 5), mode=mode)
    assert output.shape == (len(boxes), shape[1], 7, 5)
    output.sum().backward()
    assert torch.equal(features.grad, torch.zeros(shape))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("index", [0, -0.5])
def test_boxes_for_an_empty_batch_raise(index, mode):
    boxes = torch.tensor([[index, 1.0, 1, 5, 5]])
    with pytest.raises((ValueError, RuntimeError), match=r"batch index, must be in \[0, 0\)"):
        roi_align(torch.zeros(0, 3, 6, 8), boxes, 2, mode=mode)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("size", [1e4, 1e9, 1e30, 3e38])
def test_huge_boxes_end_and_are_finite(size, sampling_ratio, mode):
    features = torch.rand(1, 4, 20, 30, requires_grad=True)
    corners = [[-size, -size, size, size], [0, 0, size, size], [-size, 3, -1, 9], [size, size, -size, -size]]
    boxes = torch.tensor([[0.0, *corner] for corner in corners])
    for aligned in (True, False):
        output = roi_align(features, boxes, 7, 0.25, sampling_ratio, aligned, mode=mode)
        output.sum().backward()
        assert torch.isfinite(output).all()
        assert output.min() >= 0
        assert output.max() <= 1
    assert torch.isfinite(features.grad).all()


@pytest.mark.usefixtures("kernels")
def test_huge_float64_boxes():
    boxes = torch.tensor([[0, -1e308, -1e308, 1e308, 1e308], [0, 0, 0, 1e300, 1e300]], dtype=torch.float64)
    for sampling_ratio in (0, 2):
        output = roi_align(torch.rand(1, 1, 5, 5, dtype=torch.float64), boxes, 3, 1.0, sampling_ratio, True)
        assert torch.isfinite(output).all()


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.usefixtures("kernels")
@settings(max_examples=150, deadline=None)
@given(
    box=st.tuples(finite, finite, finite, finite),
    scale=st.sampled_from([1e-6, 0.03125, 1.0, 300.0]),
    sampling_ratio=st.sampled_from([-1, 0, 1, 3]),
    aligned=st.booleans(),
    mode=st.sampled_from(["avg", "max"]),
    channels_last=st.booleans(),
)
# It overflows when it is scaled.
@example((0.0, 1.1342745838688912e36, 0.0, 1.1342745838688912e36), 300.0, -1, False, "avg", False)
def test_any_finite_box_pools_between_the_extremes(box, scale, sampling_ratio, aligned, mode, channels_last):
    features = torch.rand(1, 2, 9, 7, generator=torch.Generator().manual_seed(0)) + 1
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    boxes = torch.tensor([[0.0, *box]])
    output = roi_align(features, boxes, (4, 3), scale, sampling_ratio, aligned, mode=mode)
    (grad,) = torch.autograd.grad(output.sum(), features)
    assert output.min() >= 0
    assert output.max() <= 2.0001
    # The weights of a bin are not negative and sum to at most 1.
    assert grad.min() >= 0
    assert grad.sum() <= output.numel() * 1.0001


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[:, :, ::2, ::2],
        lambda x: x[:, 1::2],
        lambda x: x.flip(3).transpose(2, 3),
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:, 2:],
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:3],
    ],
)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_any_strides(make, mode):
    features = make(torch.randn(2, 4, 12, 14))
    boxes = torch.tensor([[0.0, 1, 1, 6, 5], [1, 0, 2, 9, 9]])
    expected = roi_align(
        features.clone(memory_format=torch.contiguous_format), boxes, 3, aligned=True, mode=mode
    )
    torch.testing.assert_close(roi_align(features, boxes, 3, aligned=True, mode=mode), expected)
    grad = torch.randn(expected.shape)
    grads = [
        torch.autograd.grad(roi_align(leaf, boxes, 3, aligned=True, mode=mode), leaf, grad)[0]
        for leaf in (features.detach().requires_grad_(), features.clone().requires_grad_())
    ]
    torch.testing.assert_close(*grads)
    # An expanded gradient, as sum() makes it.
    leaf = features.detach().requires_grad_()
    roi_align(leaf, boxes, 3, mode=mode).sum().backward()
    assert leaf.grad.sum().item() == pytest.approx(2 * 9 * features.shape[1], rel=0.3)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("channels_last", [False, True])
def test_output_and_gradient_keep_the_layout(channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    features = FEATURES.clone(memory_format=memory_format).requires_grad_()
    output = roi_align(features, ROI, 2)
    assert output.is_contiguous(memory_format=memory_format)
    output.sum().backward()
    assert features.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_more_than_2_31_elements(channels_last, mode):
    # 4.3 GB of address space of which only the pages around the RoI are ever touched.
    channels, height, width = 8, 8192, 32769
    storage = torch.empty(channels * height * width, dtype=torch.float16)
    assert storage.numel() > 2**31
    shape = (1, channels, height, width)
    features = (
        storage.view(1, height, width, channels).permute(0, 3, 1, 2) if channels_last else storage.view(shape)
    )
    corner = torch.randn(channels, 9, 12).half()
    features[0, :, -9:, -12:] = corner
    box = torch.tensor([[0.0, width - 9, height - 7, width - 1, height - 1]])
    small = torch.tensor([[0.0, 3, 2, 11, 8]])
    output = roi_align(features, box, 3, 1.0, 2, True, mode=mode)
    expected = roi_align(corner[None], small, 3, 1.0, 2, True, mode=mode)
    torch.testing.assert_close(output, expected)
