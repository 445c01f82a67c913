"""RoIAlign's CUDA kernels, executed on the host and on a device: values, both backwards, order of threads."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.cuda_backends import deterministic
from helpers.roi_align_inputs import LAYOUTS, layout_of, make_boxes, pyramid
from helpers.roi_align_oracle import ROUNDING, error_against_oracle, random_setting

from mrcnn_plugin.ops import multi_level_roi_align, roi_align

SIZES = [(20, 25), (10, 13), (5, 7)]
SCALES = [1 / 8, 1 / 16, 1 / 32]
# Boxes of 8 to 150 pixels then reach all three levels.
OPTIONS = {"canonical_box_size": 64, "canonical_level": 4}
# Sums are single precision on both devices, and rounded once: to within one step of the dtype.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2**-10, "atol": 1e-4},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-3},
}


def pool(features, boxes, scales, device, grad=None, gather=True, **options):
    """Output and gradients of the features, moved to the CPU."""
    leaves = [f.to(device).contiguous(memory_format=layout_of(f)).requires_grad_() for f in features]
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    with deterministic(gather):
        output = multi_level_roi_align(leaves, boxes.to(device), scales, **options)
        grad = torch.ones_like(output) if grad is None else grad.to(device)
        grads = torch.autograd.grad(output, leaves, grad)
    return output.detach().cpu(), [one.cpu() for one in grads]


def assert_equal_to_cpu(backend, features, boxes, scales, **options):
    dtype = features[0].dtype
    expected, _ = pool(features, boxes, scales, "cpu", **options)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected, expected_grads = pool(features, boxes, scales, "cpu", grad, **options)
    for gather in (False, True):
        with backend.ops():
            output, grads = pool(features, boxes, scales, backend.device, grad, gather, **options)
        assert output.stride() == expected.stride()
        torch.testing.assert_close(output, expected, **TOLERANCES[dtype])
        for one, want in zip(grads, expected_grads):
            assert one.stride() == want.stride()
            # A pixel sums over many RoIs; its error is relative to the largest of those sums.
            scale = max(1.0, want.abs().max().item())
            torch.testing.assert_close(one / scale, want / scale, **TOLERANCES[dtype])


def errors(backend, seed: int, count: int, dtypes) -> list[float]:
    rng = np.random.default_rng(seed)
    return [
        error_against_oracle(random_setting(rng), dtypes[i % len(dtypes)], i, backend, (False, True))
        for i in range(count)
    ]


@pytest.mark.parametrize("dtype", ROUNDING)
def test_random_settings_against_oracle(backend, dtype):
    assert max(errors(backend, 3, 8, [dtype])) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_2000_random_settings_against_oracle(backend, part):
    assert max(errors(backend, 100 + part, 200, list(ROUNDING))) <= 1


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_pyramid_equals_cpu(backend, dtype, memory_format, mode):
    """With the levels that the equation chooses, and with all levels of each box."""
    boxes = make_boxes(12)
    features = pyramid(SIZES, dtype, memory_format, channels=12)
    options = {"output_size": (4, 3), "sampling_ratio": 2, "mode": mode}
    assert_equal_to_cpu(backend, features, boxes, SCALES, **options, **OPTIONS)
    levels = torch.arange(3).repeat_interleave(4)
    assert_equal_to_cpu(backend, features, boxes[4:8].repeat(3, 1), SCALES, **options, levels=levels)


def test_float64_boxes(backend):
    features = pyramid(SIZES, torch.float64, torch.channels_last, channels=12)
    for mode in ("avg", "max"):
        options = {"output_size": 3, "sampling_ratio": 0, "mode": mode}
        assert_equal_to_cpu(backend, features, make_boxes(12).double(), SCALES, **options, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_option_equals_cpu(backend, dtype, memory_format, mode):
    for aligned, sampling_ratio, levels in itertools.product([True, False], [0, 1, 2, 5], [1, 3]):
        # A half cannot tell two nearly equal samples apart, and then the maxima may differ.
        if mode == "max" and sampling_ratio == 5 and dtype in (torch.float16, torch.bfloat16):
            continue
        assert_equal_to_cpu(
            backend,
            pyramid(SIZES[:levels], dtype, memory_format, channels=40),
            make_boxes(40),
            SCALES[:levels],
            output_size=(7, 5),
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            mode=mode,
            **OPTIONS,
        )


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 64, 264])
def test_any_number_of_channels(backend, channels, memory_format):
    for dtype in (torch.float32, torch.bfloat16):
        features = pyramid(SIZES, dtype, memory_format, channels=channels)[1:]
        assert_equal_to_cpu(
            backend, features, make_boxes(9)[4:], SCALES[1:], output_size=2, sampling_ratio=2, **OPTIONS
        )


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "output_size", "sampling_ratio"),
    [
        ((1, 1), 7, 2),
        ((2, 6000), 1, 0),
        ((6000, 2), 1, 0),
        ((6, 8), (1, 2000), 2),
        ((6, 8), 3, 40),
        ((6, 8), 40, 1),
        # Bands that just fit.
        pytest.param((6, 8), (1, 1500), 1, marks=pytest.mark.slow),
        pytest.param((6, 8), (1500, 1), 0, marks=pytest.mark.slow),
    ],
)
def test_shapes_that_need_the_general_kernels(backend, size, output_size, sampling_ratio, memory_format):
    features = [torch.randn(1, 2, *size).contiguous(memory_format=memory_format)]
    height, width = size
    corners = [[0, 0, width, height], [-5, -5, width / 2, height + 9], [1, 1, 2, 2]]
    boxes = torch.tensor([[0.0, *corner] for corner in corners])
    assert_equal_to_cpu(
        backend, features, boxes, [1.0], output_size=output_size, sampling_ratio=sampling_ratio
    )


def test_unaligned_storage_and_other_strides(backend):
    boxes = make_boxes(6).to(backend.device)
    dense = torch.randn(2 * 20 * 30 * 8 + 1, device=backend.device)
    shifted = dense[1:].view(2, 20, 30, 8)
    for features in (
        shifted,
        shifted.permute(0, 3, 1, 2),
        shifted.transpose(2, 3),
        shifted[:, ::2],
        shifted[:1].expand(2, -1, -1, -1),
    ):
        expected = roi_align(features.clone(memory_format=torch.contiguous_format), boxes, 3, 0.25)
        with backend.ops():
            torch.testing.assert_close(roi_align(features, boxes, 3, 0.25), expected)


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_invalid_boxes_give_nan_and_no_gradient(backend, memory_format, gather):
    boxes = make_boxes(40)
    bad = torch.zeros(40, dtype=torch.bool)
    kinds = itertools.product(range(5), [math.nan, math.inf, -math.inf, -1.0, 2.0, 1e30])
    hostile = [(column, value) for column, value in kinds if column == 0 or not abs(value) <= 1e30]
    for k, (column, value) in enumerate(hostile):
        boxes[2 * k, column] = value
        bad[2 * k] = True
    features = pyramid(SIZES, torch.float32, memory_format, channels=8)
    grad = torch.randn(40, 8, 2, 2)
    for mode in ("avg", "max"):
        options = {"output_size": 2, "sampling_ratio": 2, "mode": mode, **OPTIONS}
        with backend.ops():
            output, grads = pool(features, boxes, SCALES, backend.device, grad, gather, **options)
        assert torch.equal(output.isnan().flatten(1).all(1), bad)
        assert not output[~bad].isnan().any()
        expected, expected_grads = pool(features, boxes[~bad], SCALES, "cpu", grad[~bad], **options)
        torch.testing.assert_close(output[~bad], expected, rtol=1e-5, atol=1e-5)
        for one, want in zip(grads, expected_grads):
            torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-4)


def test_levels_outside_the_pyramid_give_nan(backend):
    features = pyramid(SIZES, torch.float32, torch.contiguous_format, channels=12)
    levels = torch.tensor([0, 2, 3, -1, 2**40])
    options = {"output_size": 2, "sampling_ratio": 1, "levels": levels}
    with backend.ops():
        output, grads = pool(features, make_boxes(11)[6:], SCALES, backend.device, **options)
    assert output.isnan().flatten(1).all(1).tolist() == [False, False, True, True, True]
    assert all(torch.isfinite(one).all() for one in grads)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("size", [1e4, 1e9, 1e30, 3e38])
def test_huge_boxes_end(backend, size, mode):
    features = torch.rand(1, 4, 10, 15, device=backend.device, requires_grad=True)
    corners = [[-size, -size, size, size], [0, 0, size, size], [-size, 3, -1, 9], [size, size, -size, -size]]
    boxes = torch.tensor([[0.0, *corner] for corner in corners], device=backend.device)
    for aligned, sampling_ratio in itertools.product([True, False], [0, 2]):
        with backend.ops():
            output = roi_align(features, boxes, 3, 0.25, sampling_ratio, aligned, mode=mode)
            (grad,) = torch.autograd.grad(output.sum(), features)
        assert output.min() >= 0
        assert output.max() <= 1.0001
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (2, 0, 6, 8), (0, 3, 6, 8)])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_empty(backend, shape, mode):
    features = torch.randn(shape, device=backend.device, requires_grad=True)
    boxes = torch.zeros(4 if shape[0] and not shape[1] else 0, 5, device=backend.device)
    with backend.ops():
        output = roi_align(features, boxes, (7, 5), mode=mode)
        output.sum().backward()
    assert output.shape == (len(boxes), shape[1], 7, 5)
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_in_any_order_of_threads(backend, schedule, dtype, memory_format, mode):
    """The forward and the gather; the scatter's atomic sums agree to rounding."""
    features = pyramid(SIZES, dtype, memory_format, channels=4)[1:2]
    # A block looks at 256 RoIs at a time.
    boxes = make_boxes(270 if mode == "avg" else 20)
    grad = torch.randn(len(boxes), 4, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    options = {"output_size": 2, "sampling_ratio": 1, "mode": mode, **OPTIONS}
    arguments = (features, boxes, SCALES[1:2], backend.device, grad)
    with backend.ops():
        output, grads = pool(*arguments, True, **options)
    with backend.ops(*schedule):
        again, grads_again = pool(*arguments, True, **options)
        scattered = pool(*arguments, False, **options)
    assert torch.equal(output, again)
    assert torch.equal(output, scattered[0])
    assert all(torch.equal(one, other) for one, other in zip(grads, grads_again))
    for one, other in zip(grads, scattered[1]):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
