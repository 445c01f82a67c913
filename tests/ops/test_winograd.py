"""Winograd convolutions: the convolution itself in float64, hand-computed matrices, every error."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mrcnn_plugin.ops import (
    reference,
    winograd,
    winograd_conv2d,
    winograd_filter,
    winograd_weight,
    winograd_weight_gradient,
)

LAST = torch.channels_last


def inputs(images, channels, out_channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, height, width, generator=generator).contiguous(memory_format=LAST)
    weight = torch.randn(out_channels, channels, 3, 3, generator=generator) / (3 * channels**0.5)
    return x, weight, torch.randn(out_channels, generator=generator)


def test_hand_computed_matrices():
    """Of the points 0, 1, -1, 1/2, -2: x^4 + 1.5 x^3 - 2 x^2 - 1.5 x + 1 without 0, and so on."""
    b, g, a = (getattr(reference.winograd, f"{name}_matrix")() for name in ("input", "weight", "output"))
    assert b[0].tolist() == [1, -1.5, -2, 1.5, 1, 0]
    assert b[1].tolist() == [0, -1, 0.5, 2.5, 1, 0]
    assert b[5].tolist() == [0, 1, -1.5, -2, 1.5, 1]
    torch.testing.assert_close(g[1].tolist(), [1 / 3] * 3)
    torch.testing.assert_close(g[4].tolist(), [1 / 15, -2 / 15, 4 / 15])
    assert g[5].tolist() == [0, 0, 1]
    assert a[3].tolist() == [0, 1, -1, 0.125, -8, 1]
    # In one dimension, four outputs of three taps.
    d, w = torch.arange(6.0, dtype=torch.float64) ** 2, torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    direct = torch.stack([d[i : i + 3] @ w for i in range(4)])
    torch.testing.assert_close(a @ ((b @ d) * (g @ w)), direct)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_equals_the_convolution(relu, with_residual):
    x, weight, bias = inputs(2, 48, 32, 9, 13)
    residual = inputs(2, 32, 16, 9, 13, seed=1)[0] if with_residual else None
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    expected = expected + residual.double() if with_residual else expected
    expected = expected.relu() if relu else expected
    result = winograd_conv2d(x, winograd_weight(weight), bias, residual, relu=relu)
    assert result.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(result.double(), expected, atol=3e-5, rtol=0)


@given(images=st.integers(0, 2), height=st.integers(1, 11), width=st.integers(1, 11), seed=st.integers(0, 99))
def test_any_size(images, height, width, seed):
    x, weight, bias = inputs(images, 16, 16, height, width, seed)
    transformed = winograd_weight(weight)
    result = winograd_conv2d(x, transformed, bias)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(result.double(), expected, atol=3e-5, rtol=0)
    torch.testing.assert_close(
        result, reference.winograd.conv2d(x, transformed, bias, None, False), atol=3e-5, rtol=0
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_op_of_graphs(relu, with_residual):
    """In one call what winograd_conv2d computes call by call, whatever the parts."""
    x, weight, bias = inputs(2, 48, 32, 9, 13)
    residual = inputs(2, 32, 16, 9, 13, seed=1)[0] if with_residual else None
    weight = winograd_weight(weight)
    expected = winograd_conv2d(x, weight, bias, residual, relu=relu)
    op = torch.ops.mrcnn_plugin.winograd_conv2d
    for part in (1, 5, 1000):
        found = op(x, weight, bias, residual, relu, part)
        assert found.is_contiguous(memory_format=LAST)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.library.opcheck(op, (x, weight, bias, residual, relu, 7))
    with pytest.raises(RuntimeError, match="part must be positive, got 0"):
        op(x, weight, bias, residual, relu, 0)
    with pytest.raises(RuntimeError, match="residual must have the result's shape"):
        op(x, weight, bias, x, relu, 7)


def test_parts_of_the_tiles(monkeypatch):
    x, weight, bias = inputs(3, 16, 16, 20, 24)
    transformed = winograd_weight(weight)
    whole = winograd_conv2d(x, transformed, bias)
    monkeypatch.setattr(winograd, "_PART", 36 * 16 * 8)
    torch.testing.assert_close(winograd_conv2d(x, transformed, bias), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "count"), [(2**63 - 1, 1), (1, 2**63 - 1), (-1, 1), (0, -1), (0, 5)])
def test_tiles_behind_the_map_are_refused(first, count):
    x, _, bias = inputs(1, 16, 16, 8, 8)
    with pytest.raises(RuntimeError, match="are not among the map's 4"):
        torch.ops.mrcnn_plugin.winograd_input(x, first, count)
    if count == 1:
        with pytest.raises(RuntimeError, match="are not among the map's 4"):
            torch.ops.mrcnn_plugin.winograd_output(x, torch.zeros(36, 1, 16), bias, first, False, True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_residual_is_overwritten_only_on_request(overwrite):
    x, weight, bias = inputs(1, 16, 16, 8, 8)
    residual = x.clone(memory_format=torch.preserve_format)
    result = winograd_conv2d(x, winograd_weight(weight), bias, residual, overwrite=overwrite)
    assert torch.equal(residual, result if overwrite else x)


def test_opcheck():
    x, weight, bias = inputs(1, 16, 16, 6, 9)
    ops = torch.ops.mrcnn_plugin
    torch.library.opcheck(ops.winograd_input.default, (x, 1, 4))
    products = torch.bmm(ops.winograd_input(x, 0, 6), winograd_weight(weight))
    torch.library.opcheck(ops.winograd_output.default, (x.clone(), products, bias, 0, False, True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w: (x[:, :8], w), r"weight must have shape \(36, 8, C'\) for input of 8 channels"),
        (lambda x, w: (x.half(), w), r"input must be float32 \(N, C, H, W\), got torch.float16"),
        (lambda x, w: (x[0], w), r"input must be float32 \(N, C, H, W\)"),
        (lambda x, w: (x, w[..., :8]), "channels must be multiples of 16, got 16 and 8"),
        (lambda x, w: (x.to("meta"), w), "input must be on the CPU, got meta"),
    ],
)
def test_errors(change, message):
    x, weight, _ = inputs(1, 16, 16, 6, 9)
    with pytest.raises(ValueError, match=message):
        winograd_conv2d(*change(x, winograd_weight(weight)))


def test_other_errors():
    x, weight, _ = inputs(1, 16, 16, 6, 9)
    with pytest.raises(ValueError, match=r"weight must have shape \(C', C, 3, 3\), got \(16, 16, 3, 2\)"):
        winograd_weight(weight[..., :2])
    with pytest.raises(ValueError, match=r"residual must have shape \(1, 16, 6, 9\)"):
        winograd_conv2d(x, winograd_weight(weight), residual=x[..., :4])
    with pytest.raises(RuntimeError, match="channels_last"):
        torch.ops.mrcnn_plugin.winograd_input(x.contiguous(), 0, 1)
    with pytest.raises(RuntimeError, match="not among the map's 6"):
        torch.ops.mrcnn_plugin.winograd_input(x, 4, 3)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("flip", [False, True])
def test_filters_in_float32(flip):
    weight = inputs(1, 48, 20, 1, 1)[1]
    result = winograd_filter(weight, flip=flip)
    expected = winograd_weight((weight.flip(2, 3) if flip else weight).double()).transpose(1, 2)
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)


@given(
    images=st.integers(0, 2),
    channels=st.sampled_from([(16, 16), (32, 48)]),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    seed=st.integers(0, 99),
)
def test_gradients_equal_the_convolutions(images, channels, height, width, seed):
    x, weight, _ = inputs(images, *channels, height, width, seed)
    exact = x.double().requires_grad_(), weight.double().requires_grad_()
    output = F.conv2d(*exact, padding=1)
    grad = inputs(images, channels[1], 16, height, width, seed + 1)[0]
    expected = torch.autograd.grad(output, exact, grad.double())
    of_input = winograd_conv2d(grad, winograd_filter(weight, flip=True))
    torch.testing.assert_close(of_input.double(), expected[0], atol=3e-5, rtol=0)
    of_weight = winograd_weight_gradient(x, grad)
    assert of_weight.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(of_weight.double(), expected[1], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(reference.winograd.weight_gradient(x, grad), of_weight, atol=1e-4, rtol=1e-5)


def test_the_weights_gradient_by_parts_of_the_tiles(monkeypatch):
    x, grad = inputs(3, 16, 16, 20, 24)[0], inputs(3, 16, 16, 20, 24, seed=1)[0]
    whole = winograd_weight_gradient(x, grad)
    monkeypatch.setattr(winograd, "_GRADIENT_PART", 36 * 16 * 9)
    apart = (winograd_weight_gradient(x, grad) - whole).abs().max()
    assert 0 < apart < 1e-5 * whole.abs().max()


def test_opcheck_of_the_gradients():
    x, weight, _ = inputs(1, 16, 16, 6, 9)
    ops = torch.ops.mrcnn_plugin
    torch.library.opcheck(ops.winograd_gradient, (x, 0, 6))
    torch.library.opcheck(ops.winograd_filter, (weight.contiguous(memory_format=LAST), True))
    torch.library.opcheck(ops.winograd_filter_backward, (torch.randn(36, 8, 16),))
    with pytest.raises(RuntimeError, match="are not among the map's 6"):
        ops.winograd_gradient(x, 3, 4)
    with pytest.raises(RuntimeError, match=r"weight must have shape \(C', C, 3, 3\)"):
        ops.winograd_filter(x, False)
    with pytest.raises(RuntimeError, match=r"products must have shape \(36, C', C\)"):
        ops.winograd_filter_backward(torch.randn(36, 8, 17))
