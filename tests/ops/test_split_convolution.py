"""Convolutions on matrix tiles: the convolution itself in float64, its gradient, every size and error."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_plugin.ops import has_matrix_tiles, split_conv2d, split_weight

LAST = torch.channels_last
pytestmark = pytest.mark.skipif(not has_matrix_tiles(), reason="this processor has no matrix tiles")


def inputs(images, channels, out_channels, height, width, kernel=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, height, width, generator=generator).contiguous(memory_format=LAST)
    weight = torch.randn(out_channels, channels, kernel, kernel, generator=generator)
    return x, weight / (kernel * channels**0.5), torch.randn(out_channels, generator=generator)


def assert_close(result, expected):
    assert result.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(result.double(), expected, atol=6e-5, rtol=0)
    if expected.numel() > 1000:
        assert (result - expected).norm() <= 6e-6 * expected.norm()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_equals_the_convolution(kernel, relu, with_residual):
    x, weight, bias = inputs(2, 80, 48, 9, 67, kernel)
    residual = inputs(2, 48, 16, 9, 67, seed=1)[0] if with_residual else None
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=kernel // 2)
    expected = expected + residual.double() if with_residual else expected
    expected = expected.relu() if relu else expected
    before = None if residual is None else residual.clone()
    result = split_conv2d(x, split_weight(weight), 48, bias, residual, relu=relu)
    assert_close(result, expected)
    if with_residual:
        assert torch.equal(residual, before)
        split_conv2d(x, split_weight(weight), 48, bias, residual, relu=relu, overwrite=True)
        assert torch.equal(residual, result)


@settings(max_examples=40)
@given(
    images=st.integers(0, 3),
    channels=st.integers(1, 70),
    out_channels=st.integers(1, 70),
    height=st.integers(1, 20),
    width=st.integers(1, 70),
    kernel=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_any_size(images, channels, out_channels, height, width, kernel, seed):
    x, weight, bias = inputs(images, channels, out_channels, height, width, kernel, seed)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=kernel // 2)
    result = split_conv2d(x, split_weight(weight), out_channels, bias)
    # Of each product, 2^-16 at most is missing by each factor and by that of the two remainders.
    bound = 3 * 2**-16 * F.conv2d(x.double().abs(), weight.double().abs(), padding=kernel // 2)
    assert ((result - expected).abs() <= bound + 1e-6 * expected.abs() + 1e-6).all()
    assert result.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (16, 65)])
def test_stride(size):
    x, weight, bias = inputs(2, 64, 96, *size, kernel=1)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=2)
    assert_close(split_conv2d(x, split_weight(weight), 96, bias, stride=2), expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradient_of_the_input(kernel):
    x, weight, _ = inputs(2, 40, 72, 11, 13, kernel)
    x = x.double().requires_grad_()
    grad = inputs(2, 72, 16, 11, 13, seed=1)[0]
    y = F.conv2d(x, weight.double(), padding=kernel // 2)
    (expected,) = torch.autograd.grad(y, x, grad.double())
    assert_close(split_conv2d(grad, split_weight(weight, flip=True), 40), expected)


def test_hand_computed_sums_of_two_bfloat16():
    """1 + 2^-8 + 2^-9 is 1.0078125 rounded to 8 bits, less 2^-9; of the products the least is left out."""
    x = torch.full((1, 1, 1, 1), 1 + 2**-8 + 2**-9)
    result = split_conv2d(x, split_weight(x), 1)
    large, small = 1 + 2**-7, -(2**-9)
    assert result.item() == large**2 + 2 * large * small
    assert abs(result.item() - x.item() ** 2) == small**2


def test_special_values():
    x, weight, _ = inputs(1, 32, 32, 1, 4, kernel=1)
    for i, value in enumerate((float("nan"), float("inf"), 0.0)):
        x[0, 5, 0, i] = value
    result = split_conv2d(x, split_weight(weight), 32, relu=True)[0, :, 0]
    assert result[:, :2].isnan().all()
    assert result[:, 2:].isfinite().all()


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_a_named_level_does_without(monkeypatch, level):
    x, weight, _ = inputs(1, 32, 32, 4, 4)
    split = split_weight(weight)
    monkeypatch.setenv("MRCNN_PLUGIN_SIMD", level)
    assert not has_matrix_tiles()
    with pytest.raises(RuntimeError, match="no matrix tiles"):
        split_conv2d(x, split, 32)


def test_the_same_bits_by_any_number_of_threads():
    x, weight, bias = inputs(3, 96, 64, 31, 70)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(split_conv2d(x, split_weight(weight), 64, bias))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_other_kernels_of_the_process_keep_their_tiles():
    """oneDNN configures the tiles for itself."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(70, 90, generator=generator).bfloat16() for _ in range(2))
    expected = a @ b.T
    x, weight, _ = inputs(1, 32, 32, 8, 8)
    for _ in range(3):
        split_conv2d(x, split_weight(weight), 32)
        assert torch.equal(a @ b.T, expected)


def test_errors():
    x, weight, bias = inputs(1, 32, 32, 4, 4)
    split = split_weight(weight)
    with pytest.raises(ValueError, match=r"got \(32, 32, 5, 5\)"):
        split_weight(torch.zeros(32, 32, 5, 5))
    with pytest.raises(RuntimeError, match="weight must be float32"):
        split_weight(weight.double())
    with pytest.raises(RuntimeError, match="channels_last"):
        split_conv2d(x.contiguous(), split, 32)
    with pytest.raises(RuntimeError, match="input must be float32"):
        split_conv2d(x.double(), split, 32)
    with pytest.raises(RuntimeError, match="64 channels and 32 filters"):
        split_conv2d(torch.cat([x, x], 1).contiguous(memory_format=LAST), split, 32)
    with pytest.raises(RuntimeError, match="32 channels and 64 filters"):
        split_conv2d(x, split, 64)
    with pytest.raises(RuntimeError, match="bias must be contiguous float32"):
        split_conv2d(x, split, 32, bias[:31])
    with pytest.raises(RuntimeError, match="stride must be 1, got 2"):
        split_conv2d(x, split, 32, stride=2)
    with pytest.raises(RuntimeError, match="output must be"):
        split_conv2d(x, split, 32, residual=x[:, :, :2].contiguous(memory_format=LAST))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_op_of_graphs_is_the_same(kernel, stride, with_residual):
    x, weight, bias = inputs(2, 64, 96, 9, 11, kernel)
    weight = split_weight(weight)
    residual = inputs(2, 96, 16, -(-9 // stride), -(-11 // stride), seed=1)[0] if with_residual else None
    arguments = (x, weight, 96, bias, residual)
    expected = split_conv2d(*arguments, stride=stride, relu=True)
    assert torch.equal(torch.ops.mrcnn_plugin.split_conv2d(*arguments, stride, True), expected)
    torch.library.opcheck(torch.ops.mrcnn_plugin.split_conv2d, (*arguments, stride, True))


def test_a_map_without_channels_is_refused():
    with pytest.raises(RuntimeError, match="input must have channels"):
        split_conv2d(
            torch.zeros(1, 0, 4, 4).contiguous(memory_format=LAST), split_weight(torch.zeros(8, 0, 1, 1)), 8
        )
