"""1x1 and 3x3 convolutions of float32 on a processor's matrix tiles (AMX), which multiply bfloat16.

Axes: N images, C channels in, C' channels out, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import library


def has_matrix_tiles() -> bool:
    """Whether this processor multiplies bfloat16 by matrix tiles, and this build's kernels may use them.

    The environment variable MRCNN_PLUGIN_SIMD, which holds kernels to an instruction set, switches them off.
    """
    return library.native("cpu") and torch.ops.mrcnn_plugin.has_matrix_tiles()


def split_weight(weight: Tensor, *, flip: bool = False) -> Tensor:
    """The weight of a convolution in the form that `split_conv2d` takes.

    Args:
        weight: (C', C, k, k) float32 on the CPU; k is 1 or 3.
        flip: make the weight of the convolution, with C' channels in and C out, that turns the output's
            gradient into the input's.

    Returns:
        bfloat16, of the bytes that `weight` has, filled up to multiples of 32 channels.

    Raises:
        ValueError, RuntimeError: wrong shape, dtype or device; a processor without matrix tiles.
    """
    if weight.dim() != 4 or weight.shape[2:] not in ((1, 1), (3, 3)):
        raise ValueError(f"weight must have shape (C', C, 1, 1) or (C', C, 3, 3), got {tuple(weight.shape)}")
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    return torch.ops.mrcnn_plugin.split_weight(weight, flip)


def split_conv2d(
    input: Tensor,  # [N, C, H, W]
    weight: Tensor,
    out_channels: int,
    bias: Tensor | None = None,  # [C']
    residual: Tensor | None = None,  # [N, C', H', W']
    *,
    stride: int = 1,
    relu: bool = False,
    overwrite: bool = False,
) -> Tensor:  # [N, C', H', W']
    """`relu(conv2d(input, weight, bias, stride, padding=k // 2) + residual)` on matrix tiles.

    Each float32 is taken for the sum of two bfloat16, which leaves at most 2^-16 of it away, and the three
    largest of the four products are added up in float32: rounding errors are some millionths of the result's
    own size, as `winograd_conv2d` has them. An infinity among the inputs makes NaN.
    Not differentiable: the result carries no gradient.

    Args:
        input: (N, C, H, W) float32 on the CPU, contiguous in memory format channels_last.
        weight: of `split_weight`.
        out_channels: C'.
        bias: (C',) float32.
        residual: (N, C', H', W') float32 in channels_last, added before the activation.
        stride: of a 1x1 convolution; that of 3x3 ones is 1.
        relu: whether negative results become 0.
        overwrite: the result may be written into `residual`.

    Returns:
        (N, C', H', W') float32 in channels_last; H' and W' are H and W over the stride, rounded up.

    Raises:
        RuntimeError: wrong shape, dtype, device or memory format; a processor without matrix tiles.

    Source: Henry, Tang and Heinecke, arXiv 1904.06376, on sums of bfloat16.
    """
    input = input.detach()
    if torch.compiler.is_compiling():
        # One node of the graph, which writes into nothing else.
        return torch.ops.mrcnn_plugin.split_conv2d(input, weight, out_channels, bias, residual, stride, relu)
    if residual is None:
        images, _, height, width = input.shape
        shape = (images, out_channels, -(-height // stride), -(-width // stride))
        output = torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last)
    else:
        output = residual if overwrite else residual.clone()
    torch.ops.mrcnn_plugin.split_conv2d_out(output, input, weight, bias, stride, residual is not None, relu)
    return output


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::split_weight")
    def _fake_weight(weight: Tensor, flip: bool) -> Tensor:
        filters, channels = (weight.shape[1], weight.shape[0]) if flip else weight.shape[:2]
        kernel = weight.shape[2]
        shape = (-(-filters // 32), kernel, -(-channels // 32), kernel, 2, 2, 16, 32)
        return weight.new_empty(shape, dtype=torch.bfloat16)

    @torch.library.register_fake("mrcnn_plugin::split_conv2d_out")
    def _fake_convolution_out(
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        accumulate: bool,
        relu: bool,
    ) -> None:
        return None

    @torch.library.register_fake("mrcnn_plugin::split_conv2d")
    def _fake_convolution(
        input: Tensor,
        weight: Tensor,
        out_channels: int,
        bias: Tensor | None,
        residual: Tensor | None,
        stride: int,
        relu: bool,
    ) -> Tensor:
        images, _, height, width = input.shape
        if stride != 1:
            height, width = (height + stride - 1) // stride, (width + stride - 1) // stride
        shape = (images, out_channels, height, width)
        return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
