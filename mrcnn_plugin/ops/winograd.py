"""3x3 convolutions with 2.25 multiplications per output and input channel instead of 9, for inference.

Axes: N images, C channels in, C' channels out, H x W pixels, T tiles of 4x4 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import library, reference

#: Channels in and out must be a multiple of it.
CHANNEL_MULTIPLE = 16
# Numbers of a part of the tiles in their transformed form: 36 times tiles times channels. They should stay
# in a core's cache, and the weights are read once for each part.
_PART = 36 * 128 * 256


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
    images, channels, height, width = input.shape
    if residual is None:
        shape = (images, weight.shape[2], height, width)
        output = torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last)
    else:
        output = residual if overwrite else residual.clone()
    tiles = images * -(-height // 4) * -(-width // 4)
    part = max(8, _PART // (36 * max(channels, weight.shape[2])))
    for first in range(0, tiles, part):
        count = min(part, tiles - first)
        products = torch.bmm(torch.ops.mrcnn_plugin.winograd_input(input, first, count), weight)
        torch.ops.mrcnn_plugin.winograd_output(output, products, bias, first, residual is not None, relu)
    return output


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
