"""From a graph to a `torch.export` program, and that program as a .pt2 file."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._meta_registrations
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from mrcnn_plugin.errors import ConfigError

from .sizes import ceil_div


def trace(graph: nn.Module, size: tuple[int, int] | None = None) -> ExportedProgram:
    """The graph as a program of ATen's and this package's ops, on the CPU.

    Args:
        graph: a DetectionGraph, or what takes and holds the same, in eval mode, on the CPU.
        size: (height, width) of the only pictures that it shall take; None: any size.

    Raises:
        ConfigError: the model cannot be traced without a fixed size.
    """
    # Of unequal sides, neither 0 nor 1 nor a multiple of a stride, which would be taken for constants.
    height, width = size or (203, 267)
    model: Any = graph.model
    channels = len(model.pixel_mean)
    image = torch.zeros((height, width, channels), dtype=torch.uint8)
    sides = None if size else {"image": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}
    with torch.no_grad(), _without_size_checks(graph), any_sizes():
        try:
            # Where torch gives up, it prints the unfinished graph.
            with contextlib.redirect_stderr(io.StringIO()):
                return torch.export.export(graph, (image,), dynamic_shapes=sides, strict=False)
        except GuardOnDataDependentSymNode as error:
            why = str(error).splitlines()[0]
            raise ConfigError(
                f"the model asks for the size of a map, which is known only with a fixed --image-size: {why}"
            ) from error


@contextlib.contextmanager
def _without_size_checks(module: nn.Module) -> Iterator[None]:
    """Lets convolutions work with sizes that no graph can tell while it is made.

    Detectron2's asks whether its input is empty, in order to refuse an empty batch in training. timm's
    padding of TensorFlow's kind rounds fractions, which formulas of sizes do not get rid of.
    """
    forwards: dict[type, Callable[..., Tensor]] = {Conv2d: _conv2d}
    if "timm.layers" in sys.modules:
        forwards[sys.modules["timm.layers"].Conv2dSame] = _conv2d_same
    convolutions = [one for one in module.modules() if type(one) in forwards]
    for one in convolutions:
        one.forward = types.MethodType(forwards[type(one)], one)
    try:
        yield
    finally:
        for one in convolutions:
            del one.forward


@contextlib.contextmanager
def any_sizes() -> Iterator[None]:
    """Lets torch work with the sizes of maps without asking for their values, which would bind the graph.

    Its rule for pooled sizes asks whether a division is exact in order to round negative numbers, which sizes
    are not. Its choice of a convolution asks whether the input is large, or empty, and the guess of the
    layout of its result, for which the choice is made, whether a side is one pixel. Graphs hold no views that
    depend on that layout.
    """
    with (
        _replaced(torch._meta_registrations, "div_rtn", lambda x, y: x // y),
        _replaced(torch._C, "_select_conv_backend", lambda *_, **__: None),
        _replaced(torch._C, "_conv_determine_backend_memory_format", lambda *_: None),
        torch.backends.mkldnn.flags(enabled=False),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _conv2d(self: Conv2d, x: Tensor) -> Tensor:
    x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
    if self.norm is not None:
        x = self.norm(x)
    return x if self.activation is None else self.activation(x)


def _conv2d_same(self: Any, x: Tensor) -> Tensor:
    pads: list[int] = []
    for side, kernel, stride, dilation in zip(x.shape[2:], self.weight.shape[2:], self.stride, self.dilation):
        least = (ceil_div(side, stride) - 1) * stride + (kernel - 1) * dilation + 1
        pad = torch.sym_max(least - side, 0)
        # The last axis first, and the odd pixel behind.
        pads = [pad // 2, pad - pad // 2, *pads]
    return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
