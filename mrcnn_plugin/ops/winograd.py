"""3x3 convolutions, and their gradients, with 2.25 multiplications per output and input channel instead of 9.

Axes: N images, C channels in, C' channels out, H x W pixels, T tiles of 4x4 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import library, reference

#: Channels in and out must be a multiple of it.
CHANNEL_MULTIPLE = 16
# Numbers of a part of the tiles in their transformed form: 36 times tiles times channels. They should stay
# in a core's cache, and the weights are read once for each part.
_PART = 36 * 128 * 256
# The sums of all parts are read and written for each of them.
_GRADIENT_PART = 4 * _PART


def winograd_weight(weight: Tensor) -> Tensor:
    """The weight of a 3x3 convolution in the form that `winograd_conv2d` takes.

    Args:
        weight: (C', C, 3, 3), floating.

    Returns:
        (36, C, C') in the dtype of `weight`; computed in float64.

    Raises:
        ValueError: wrong shape.
    """
    if weight.dim() != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(f"weight must have shape (C', C, 3, 3), got {tuple(weight.shape)}")
    return reference.winograd.transform_weight(weight.detach())


def winograd_conv2d(
    input: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [36, C, C']
    bias: Tensor | None = None,  # [C']
    residual: Tensor | None = None,  # [N, C', H, W]
    *,
    relu: bool = False,
    overwrite: bool = False,
) -> Tensor:  # [N, C', H, W]
    """`relu(conv2d(input, weight, bias, padding=1) + residual)` by Winograd's minimal filtering F(4x4, 3x3).

    Rounding errors are about ten times those of the convolution: a few millionths of the result's own size.
    Not differentiable: the result carries no gradient.

    Args:
        input: (N, C, H, W) float32 on the CPU, contiguous in memory format channels_last.
        weight: (36, C, C') float32, of `winograd_weight`; C and C' are multiples of 16.
        bias: (C',) float32.
        residual: (N, C', H, W) float32 in channels_last, added before the activation.
        relu: whether negative results become 0.
        overwrite: the result may be written into `residual`.

    Returns:
        (N, C', H, W) float32 in channels_last.

    Raises:
        ValueError, RuntimeError: wrong shape, dtype, device or memory format.

    Source: Lavin and Gray, arXiv 1509.09308.
    """
    _check(input, weight, residual)
    input = input.detach()
    if not library.native(input.device.type):
        return reference.winograd.conv2d(input, weight, bias, residual, relu)
    if torch.compiler.is_compiling():
        # One node of the graph, whatever the size of the map.
        part = _tiles_of_part(_PART, max(weight.shape[1:]))
        return torch.ops.mrcnn_plugin.winograd_conv2d(input, weight, bias, residual, relu, part)
    if residual is None:
        shape = (input.shape[0], weight.shape[2], *input.shape[2:])
        output = torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last)
    else:
        output = residual if overwrite else residual.clone()
    for first, count in _parts(input, _PART, max(weight.shape[1:])):
        products = torch.bmm(torch.ops.mrcnn_plugin.winograd_input(input, first, count), weight)
        torch.ops.mrcnn_plugin.winograd_output(output, products, bias, first, residual is not None, relu)
    return output


def winograd_filter(weight: Tensor, *, flip: bool = False) -> Tensor:
    """`winograd_weight` in float32 and fast, for weights that change at every step.

    Args:
        weight: (C', C, 3, 3) float32 on the CPU; C is a multiple of 16.
        flip: turn each filter by 180 degrees, as the gradient of the input wants it.

    Returns:
        (36, C', C): transposed to (36, C, C') it is what `winograd_conv2d` takes; with `flip` it is, as it
        is, the weight of the convolution that makes the input's gradient of the output's.
    """
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    if library.native("cpu"):
        return torch.ops.mrcnn_plugin.winograd_filter(weight, flip)
    return reference.winograd.transform_weight(weight.flip(2, 3) if flip else weight).transpose(1, 2)


def winograd_weight_gradient(input: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the weight of a 3x3 convolution with padding 1.

    The transpose of `winograd_conv2d` in its weight: of each tile A dY A^T by (B^T d B)^T, summed over tiles,
    between G^T and G.

    Args:
        input: (N, C, H, W) float32 on the CPU, contiguous in channels_last; C is a multiple of 16.
        grad: (N, C', H, W), of the convolution's result; as `input`.

    Returns:
        (C', C, 3, 3) float32 in channels_last.
    """
    input, grad = input.detach(), grad.detach()
    if not library.native("cpu"):
        return reference.winograd.weight_gradient(input, grad)
    size = (36, grad.shape[1], input.shape[1])
    products = input.new_zeros(size) if grad.numel() == 0 else input.new_empty(size)
    for first, count in _parts(input, _GRADIENT_PART, max(size[1:])):
        spread = torch.ops.mrcnn_plugin.winograd_gradient(grad, first, count).transpose(1, 2)
        tiles = torch.ops.mrcnn_plugin.winograd_input(input, first, count)
        torch.baddbmm(products, spread, tiles, beta=float(first > 0), out=products)
    return torch.ops.mrcnn_plugin.winograd_filter_backward(products)


def _parts(map: Tensor, numbers: int, channels: int) -> Iterator[tuple[int, int]]:
    """First tile of each part, and how many it has."""
    images, _, height, width = map.shape
    tiles = images * -(-height // 4) * -(-width // 4)
    part = _tiles_of_part(numbers, channels)
    for first in range(0, tiles, part):
        yield first, min(part, tiles - first)


def _tiles_of_part(numbers: int, channels: int) -> int:
    # Odd: rows that are a multiple of the page size apart would share a few lines of the caches.
    return max(8, numbers // (36 * channels)) | 1


def _check(input: Tensor, weight: Tensor, residual: Tensor | None) -> None:
    if input.device.type != "cpu":
        raise ValueError(f"input must be on the CPU, got {input.device}")
    if input.dim() != 4 or input.dtype != torch.float32:
        raise ValueError(f"input must be float32 (N, C, H, W), got {input.dtype} {tuple(input.shape)}")
    if weight.dim() != 3 or weight.shape[:2] != (36, input.shape[1]):
        raise ValueError(
            f"weight must have shape (36, {input.shape[1]}, C') for input of {input.shape[1]} channels, "
            f"got {tuple(weight.shape)}"
        )
    if input.shape[1] % CHANNEL_MULTIPLE or weight.shape[2] % CHANNEL_MULTIPLE:
        raise ValueError(
            f"channels must be multiples of {CHANNEL_MULTIPLE}, got {input.shape[1]} and {weight.shape[2]}"
        )
    shape = (input.shape[0], weight.shape[2], *input.shape[2:])
    if residual is not None and tuple(residual.shape) != shape:
        raise ValueError(f"residual must have shape {shape}, got {tuple(residual.shape)}")


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::winograd_input")
    def _fake_input(input: Tensor, first: int, count: int) -> Tensor:
        return input.new_empty((36, count, input.shape[1]))

    @torch.library.register_fake("mrcnn_plugin::winograd_output")
    def _fake_output(
        output: Tensor, products: Tensor, bias: Tensor | None, first: int, accumulate: bool, relu: bool
    ) -> None:
        return None

    @torch.library.register_fake("mrcnn_plugin::winograd_conv2d")
    def _fake_conv2d(
        input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool, part: int
    ) -> Tensor:
        shape = (input.shape[0], weight.shape[2], *input.shape[2:])
        return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)

    @torch.library.register_fake("mrcnn_plugin::winograd_gradient")
    def _fake_gradient(grad: Tensor, first: int, count: int) -> Tensor:
        return grad.new_empty((36, count, grad.shape[1]))

    @torch.library.register_fake("mrcnn_plugin::winograd_filter")
    def _fake_filter(weight: Tensor, flip: bool) -> Tensor:
        return weight.new_empty((36, *weight.shape[:2]))

    @torch.library.register_fake("mrcnn_plugin::winograd_filter_backward")
    def _fake_filter_backward(products: Tensor) -> Tensor:
        grad = products.new_empty((*products.shape[1:], 3, 3))
        return grad.contiguous(memory_format=torch.channels_last)
