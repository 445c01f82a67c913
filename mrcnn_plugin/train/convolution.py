"""Convolutions of a training on the CPU: norm, residual and activation in one pass, gradients by Winograd."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2 import layers
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import FPN, BasicStem
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mrcnn_plugin.ops import (
    has_matrix_tiles,
    split_conv2d,
    split_weight,
    winograd_conv2d,
    winograd_filter,
    winograd_weight_gradient,
)
from mrcnn_plugin.ops.library import native
from mrcnn_plugin.ops.winograd import CHANNEL_MULTIPLE
from mrcnn_plugin.optimization.backbones import FusedFPN
from mrcnn_plugin.optimization.substitution import specialize

LAST = torch.channels_last
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
# With fewer channels the transforms of the maps, with fewer tiles of 4x4 pixels those of the weights, cost
# more than the multiplications that they save.
_LEAST_CHANNELS = 64
_LEAST_TILES = 64
# On matrix tiles: with fewer channels of 1x1, reading and writing takes the time. Measured.
_LEAST_SPLIT_CHANNELS = 64


def fuse_convolutions(model: nn.Module) -> None:
    """Lets the convolutions of a float32 model on the CPU, in place, train in fewer passes and products.

    Frozen norms become a part of the weight, w s: y = conv(x, w s) + b, so that the gradient of w is s times
    that of w s. Residuals are added and ReLUs applied as the result is written. 3x3 convolutions of stride 1
    and their gradients are computed by Winograd's F(4x4, 3x3). Where the processor has matrix tiles (AMX),
    those of many channels, 1x1 ones too, and the gradients of their inputs are computed there
    (`mrcnn_plugin.ops.split_conv2d`). Parameters and their names stay.
    """
    for module in list(model.modules()):
        if type(module) in _CONVOLUTIONS and _gains(module):
            module.__class__ = _CONVOLUTIONS[type(module)]
    for module in list(model.modules()):
        convs = [one for one in module.children() if isinstance(one, nn.Conv2d)]
        if type(module) in _BLOCKS and all(isinstance(one, TrainedConv2d) for one in convs):
            module.__class__ = _BLOCKS[type(module)]
        elif _has_trained_laterals(module):
            specialize(module, FusedFPN)


def _has_trained_laterals(module: Any) -> bool:
    return type(module) is FPN and all(isinstance(one, TrainedConv2d) for one in module.lateral_convs)


class TrainedConv2d(nn.Conv2d):
    """`activation(norm(convolution) + residual)`; the classes below are Detectron2's and torch's own."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, overwrite: bool = False, *, relu: bool = False
    ) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W').

        Args:
            residual: of the result's shape; added before the activation.
            overwrite: whether nobody else reads `residual`; autograd may, so that it is left alone.
            relu: whether a ReLU follows, beside the convolution's own activation.
        """
        norm, activation = getattr(self, "norm", None), getattr(self, "activation", None)
        scale, bias = None, self.bias
        if isinstance(norm, FrozenBatchNorm2d):
            scale, bias = _scale_and_shift(norm, bias)
            norm = None
        alone = norm is None and activation is None
        inside = residual if alone else None
        # A residual that is added later comes before the ReLU that follows.
        behind = residual is not None and inside is None
        relu_inside = norm is None and (_is_relu(activation) or (relu and activation is None and not behind))
        if _by_onednn(x, self.weight):
            geometry = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
            y = _Convolution.apply(x, self.weight, scale, bias, inside, geometry, relu_inside)
        else:
            weight = self.weight if scale is None else self.weight * scale.view(-1, 1, 1, 1)
            y = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            if inside is not None:
                y = y + inside.to(y.dtype)
            y = F.relu_(y) if relu_inside else y
        if norm is not None:
            y = norm(y)
        if activation is not None and not relu_inside:
            y = activation(y)
        if behind:
            y = y + residual.to(y.dtype)  # type: ignore[union-attr]
        return F.relu_(y) if relu and (behind or not relu_inside) else y


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


@torch.no_grad()
def _scale_and_shift(norm: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return scale, norm.bias - mean * scale


def _is_relu(activation: object) -> bool:
    return activation in (F.relu, F.relu_, torch.relu, torch.relu_) or type(activation) is nn.ReLU


class _Convolution(torch.autograd.Function):
    """`relu(conv2d(x, weight * scale, bias) + residual)`; x, weight, bias and residual have gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        geometry: tuple[list[int], list[int], list[int], int],
        relu: bool,
    ) -> Tensor:
        x = x.contiguous(memory_format=LAST)
        scaled = weight if scale is None else weight * scale.view(-1, 1, 1, 1)
        ctx.winograd = _suits_winograd(x, weight, geometry)
        if residual is not None:
            residual = residual.contiguous(memory_format=LAST)
        ctx.tiles = _suits_matrix_tiles(x, weight, geometry)
        if ctx.tiles:
            stride = geometry[0][0]
            y = split_conv2d(x, split_weight(scaled), len(weight), bias, residual, stride=stride, relu=relu)
        elif ctx.winograd:
            transformed = winograd_filter(scaled).transpose(1, 2)
            y = winograd_conv2d(x, transformed, bias, residual, relu=relu)
        else:
            y = _onednn(x, scaled, bias, residual, geometry, relu)
        ctx.geometry, ctx.relu = geometry, relu
        ctx.save_for_backward(x, scaled, scale, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, weight, scale, y = ctx.saved_tensors
        of_x, of_weight, _, of_bias, of_residual, *_ = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=LAST)
        if ctx.relu:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        grad_x, grad_weight = None, None
        stride, padding, dilation, groups = ctx.geometry
        if of_x and ctx.tiles and stride[0] == 1:
            grad_x, of_x = split_conv2d(grad, split_weight(weight, flip=True), x.shape[1]), False
        elif of_x and ctx.winograd:
            grad_x, of_x = winograd_conv2d(grad, winograd_filter(weight, flip=True)), False
        if of_weight and ctx.winograd:
            grad_weight, of_weight = winograd_weight_gradient(x, grad), False
        if of_x or of_weight:
            others = torch.ops.aten.convolution_backward(
                grad,
                x,
                weight,
                None,
                stride,
                padding,
                dilation,
                False,
                [0, 0],
                groups,
                [of_x, of_weight, False],
            )
            grad_x = others[0] if of_x else grad_x
            grad_weight = others[1] if of_weight else grad_weight
        if scale is not None and grad_weight is not None:
            grad_weight.mul_(scale.view(-1, 1, 1, 1))
        grad_bias = grad.sum((0, 2, 3)) if of_bias else None
        return grad_x, grad_weight, None, grad_bias, grad if of_residual else None, None, None


def _onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, geometry: tuple, relu: bool
) -> Tensor:
    stride, padding, dilation, groups = geometry
    onednn: Any = torch.ops.mkldnn
    sizes = (padding, stride, dilation, groups)
    after: Any = ("relu" if relu else "none", [], "")
    if residual is None:
        return onednn._convolution_pointwise(x, weight, bias, *sizes, *after)
    unary: Any = ("relu", [], "") if relu else (None, [], None)
    return onednn._convolution_pointwise.binary(x, residual, weight, bias, *sizes, "add", None, *unary)


def _suits_matrix_tiles(x: Tensor, weight: Tensor, geometry: tuple) -> bool:
    stride, padding, _, groups = geometry
    if groups != 1 or stride[0] != stride[1] or not has_matrix_tiles():
        return False
    least = min(weight.shape[:2])
    if weight.shape[2:] == (1, 1):
        return padding == [0, 0] and least >= _LEAST_SPLIT_CHANNELS
    same_size = geometry == ([1, 1], [1, 1], [1, 1], 1)
    return weight.shape[2:] == (3, 3) and same_size and least >= _LEAST_CHANNELS


def _suits_winograd(x: Tensor, weight: Tensor, geometry: tuple) -> bool:
    channels = weight.shape[:2]
    tiles = x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
    return (
        weight.shape[2:] == (3, 3)
        and geometry == ([1, 1], [1, 1], [1, 1], 1)
        and min(channels) >= _LEAST_CHANNELS
        and not any(c % CHANNEL_MULTIPLE for c in channels)
        and tiles >= _LEAST_TILES
        and native("cpu")
    )


def _gains(conv: Any) -> bool:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    by_winograd = (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
    )
    if type(conv) is nn.Conv2d:
        return by_winograd
    # A residual or ReLU may follow.
    return conv.norm is None or isinstance(conv.norm, FrozenBatchNorm2d) or by_winograd


class _TorchConv2d(TrainedConv2d):
    plain_class = nn.Conv2d


class _Detectron2Conv2d(TrainedConv2d, layers.Conv2d):
    plain_class = layers.Conv2d


_CONVOLUTIONS: dict[type, type] = {nn.Conv2d: _TorchConv2d, layers.Conv2d: _Detectron2Conv2d}


def _shortcut(block: Any, x: Tensor) -> Tensor:
    return x if block.shortcut is None else block.shortcut(x)


class _TrainedBasicBlock(BasicBlock):
    plain_class = BasicBlock

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, relu=True), _shortcut(self, x), relu=True)


class _TrainedBottleneckBlock(BottleneckBlock):
    plain_class = BottleneckBlock

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x, relu=True), relu=True)
        return self.conv3(out, _shortcut(self, x), relu=True)


class _TrainedStem(BasicStem):
    plain_class = BasicStem

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(x, relu=True), kernel_size=3, stride=2, padding=1)


_BLOCKS: dict[type, type] = {
    BasicBlock: _TrainedBasicBlock,
    BottleneckBlock: _TrainedBottleneckBlock,
    BasicStem: _TrainedStem,
}
