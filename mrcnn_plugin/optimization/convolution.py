"""Convolutions that add a residual and apply their activation while they write their result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2 import layers
from torch import Tensor, nn

from mrcnn_plugin.ops import has_matrix_tiles, split_conv2d, split_weight, winograd_conv2d, winograd_weight
from mrcnn_plugin.ops.library import native
from mrcnn_plugin.ops.winograd import CHANNEL_MULTIPLE

_HAS_ONEDNN = torch.backends.mkldnn.is_available()
# With fewer, the transforms cost more than the multiplications that they save.
_LEAST_CHANNELS = 64
# With fewer, reading and writing the maps of 1x1 convolutions takes the time, not multiplying. Measured.
_LEAST_SPLIT_CHANNELS = 64


@functools.cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves maps of this dtype on this processor."""
    if not _HAS_ONEDNN:
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


class Activation(NamedTuple):
    """An activation as oneDNN names it, and as a module for where oneDNN is not used."""

    name: str
    scalars: tuple[float, ...]
    algorithm: str
    module: nn.Module | Callable[[Tensor], Tensor]


IDENTITY = Activation("none", (), "", nn.Identity())


def activation_of(function: object) -> Activation | None:
    """The activation that a module or function is; None where a convolution cannot apply it itself."""
    if function is None or type(function) is nn.Identity:
        return IDENTITY
    if function in (F.relu, F.relu_, torch.relu, torch.relu_) or type(function) is nn.ReLU:
        return Activation("relu", (), "", torch.relu_)
    if type(function) is nn.ReLU6:
        return Activation("hardtanh", (0.0, 6.0), "", function)
    if type(function) is nn.SiLU:
        return Activation("swish", (), "", function)
    if type(function) is nn.Hardswish:
        return Activation("hardswish", (), "", function)
    return None


class FusedConv2d(nn.Conv2d):
    """`activation(convolution + residual)` in one pass over the result.

    Made by `fuse` of a convolution in a model's copy, in place: parents hold their layers in lists too, so
    that the object has to stay. Inference only: on the CPU oneDNN's operators are called directly, and they
    have no gradient.
    """

    after: Activation
    # The weight for `winograd_conv2d`, where `use_winograd` chose that.
    transformed: Tensor | None
    # The weight for `split_conv2d`, where `use_matrix_tiles` chose that.
    split: Tensor | None
    # The weight in the order that oneDNN computes in, which it would else make at every call.
    packed: Tensor | None

    def forward(self, x: Tensor, residual: Tensor | None = None, overwrite: bool = False) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W').

        Args:
            residual: of the result's shape; added before the activation.
            overwrite: the result may be written into `residual`.
        """
        if torch.compiler.is_compiling():
            return self._in_graph(x, residual)
        if x.device.type != "cpu" or x.numel() == 0 or not has_onednn(x.dtype):
            return self._separately(x, residual)
        if self.transformed is not None and x.is_contiguous(memory_format=torch.channels_last):
            relu = self.after.name == "relu"
            return winograd_conv2d(x, self.transformed, self.bias, residual, relu=relu, overwrite=overwrite)
        if self.split is not None and fits_matrix_tiles(x, self.split):
            return split_conv2d(
                x,
                self.split,
                self.out_channels,
                self.bias,
                residual,
                stride=self.stride[0],
                relu=self.after.name == "relu",
                overwrite=overwrite,
            )
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if self.packed is None:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.packed = reorder(self.weight.detach(), *geometry, list(x.shape))
        name, scalars, algorithm, _ = self.after
        onednn: Any = torch.ops.mkldnn
        if residual is None:
            return onednn._convolution_pointwise(
                x, self.packed, self.bias, *geometry, name, list(scalars), algorithm
            )
        unary = (None, [], None) if name == "none" else (name, list(scalars), algorithm)
        if overwrite:
            return onednn._convolution_pointwise_.binary(
                residual, x, self.packed, self.bias, *geometry, "add", None, *unary
            )
        return onednn._convolution_pointwise.binary(
            x, residual, self.packed, self.bias, *geometry, "add", None, *unary
        )

    def _apply(self, fn: Callable, recurse: bool = True) -> FusedConv2d:
        # Of another dtype or device, the weight is packed anew.
        self.packed = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "packed": None}

    def _in_graph(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Of ops that torch.compile and torch.export know; inductor fuses those of PyTorch by itself."""
        relu, last = self.after.name == "relu", torch.channels_last
        residual = None if residual is None else residual.contiguous(memory_format=last)
        if self.transformed is not None:
            x = x.contiguous(memory_format=last)
            return winograd_conv2d(x, self.transformed, self.bias, residual, relu=relu)
        if self.split is not None and x.dtype == torch.float32:
            x, stride = x.contiguous(memory_format=last), self.stride[0]
            return split_conv2d(
                x, self.split, self.out_channels, self.bias, residual, stride=stride, relu=relu
            )
        return self._separately(x, residual)

    def _separately(self, x: Tensor, residual: Tensor | None) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if residual is not None:
            y += residual
        return self.after.module(y)


def can_fuse(conv: nn.Module) -> bool:
    """Whether `conv` is an ordinary convolution: of torch's or Detectron2's class, zero-padded, no norm."""
    return (
        type(conv) in (nn.Conv2d, layers.Conv2d, FusedConv2d)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and getattr(conv, "norm", None) is None
    )


def fuse(conv: Any, activation: object = None) -> bool:
    """Makes `conv`, in place, a FusedConv2d that applies `activation` too; whether it could.

    An `activation` that the convolution has already stays the first one: there must be none then.
    """
    after = activation_of(activation)
    if not can_fuse(conv) or after is None:
        return False
    own = activation_of(getattr(conv, "activation", None))
    if own is None or (own is not IDENTITY and after is not IDENTITY):
        return False
    if isinstance(conv, FusedConv2d):
        if after is not IDENTITY:
            if conv.after is not IDENTITY:
                return False
            conv.after = after
        return True
    conv.activation = None
    conv.after = after if own is IDENTITY else own
    conv.packed = None
    conv.register_buffer("transformed", None, persistent=False)
    conv.register_buffer("split", None, persistent=False)
    conv.__class__ = FusedConv2d
    return True


def fuse_all(model: nn.Module) -> None:
    """Makes every convolution that can be one a FusedConv2d, with the activation that it has."""
    for module in list(model.modules()):
        if type(module) in (nn.Conv2d, layers.Conv2d):
            fuse(module)


def use_winograd(model: nn.Module) -> None:
    """Lets those of the FusedConv2d that are faster so multiply by Winograd's scheme: 3x3 and stride 1, of
    many channels, on the CPU. Their transformed weights take four times the memory of the weights."""
    for conv in model.modules():
        if isinstance(conv, FusedConv2d) and _suits_winograd(conv):
            conv.transformed = winograd_weight(conv.weight)


def fits_matrix_tiles(x: Tensor, split: Tensor) -> bool:
    """Whether `split_conv2d` takes `x` and a layer's split weight, which may come from another machine."""
    return (
        split.dtype == torch.bfloat16
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and has_matrix_tiles()
    )


def use_matrix_tiles(model: nn.Module) -> None:
    """Lets those of the FusedConv2d that are faster so multiply on the processor's matrix tiles, where it has
    them: 3x3 of stride 1, for which Winograd's scheme is left, and 1x1, of many channels."""
    if not has_matrix_tiles():
        return
    for conv in model.modules():
        if isinstance(conv, FusedConv2d) and _suits_matrix_tiles(conv):
            conv.split = split_weight(conv.weight)


def _suits_matrix_tiles(conv: FusedConv2d) -> bool:
    least = min(conv.in_channels, conv.out_channels)
    if conv.kernel_size == (1, 1):
        suits = conv.padding == (0, 0) and conv.stride[0] == conv.stride[1]
        suits &= least >= _LEAST_SPLIT_CHANNELS
    else:
        suits = conv.kernel_size == (3, 3) and conv.stride == conv.padding == conv.dilation == (1, 1)
        suits &= least >= _LEAST_CHANNELS
    return (
        suits
        and conv.groups == 1
        and conv.after.name in ("none", "relu")
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
    )


def _suits_winograd(conv: FusedConv2d) -> bool:
    channels = (conv.in_channels, conv.out_channels)
    return (
        conv.split is None
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.after.name in ("none", "relu")
        and min(channels) >= _LEAST_CHANNELS
        and not any(c % CHANNEL_MULTIPLE for c in channels)
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
        and native("cpu")
    )
