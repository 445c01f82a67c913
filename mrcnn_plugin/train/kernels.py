"""The kernels that a model trains with: the same results within rounding, in fewer or faster passes."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from .convolution import fuse_convolutions

logger = logging.getLogger(__name__)


def use_kernels(model: nn.Module, memory_format: torch.memory_format, *, fused: bool, amp: bool) -> None:
    """Gives a model, in place, the kernels that its device trains fastest with; a line of the log says which.

    Args:
        model: on the device that it is trained on.
        memory_format: of its weights, and so of its maps.
        fused: whether convolutions may take in norms, residuals and activations, as `fuse_convolutions`
            does: on the CPU and in float32 alone.
        amp: whether it is trained under autocast.
    """
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    fuse_frozen_norms(model)
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    fused = fused and on_cpu and not amp and memory_format == torch.channels_last
    if fused:
        fuse_convolutions(model)
    elif on_cpu and amp:
        depthwise_in_float32(model)
    how = ", norms and activations inside the convolutions" if fused else ""
    logger.info(f"Trains in memory format {str(memory_format).removeprefix('torch.')}{how}")


def fuse_frozen_norms(model: nn.Module) -> None:
    """Lets the frozen batch norms of a model, in place, take one pass forward and one backward.

    Detectron2's and timm's multiply and add in two passes where a gradient is wanted, and timm's turns
    bfloat16 into float32 for the layers after it.
    """
    for module in model.modules():
        if type(module) is FrozenBatchNorm2d:
            module.__class__ = _FusedFrozenBatchNorm2d
        elif type(module).__name__ == "FrozenBatchNormAct2d" and type(module).__module__.startswith("timm."):
            module.__class__ = _with_act(type(module))  # type: ignore[arg-type]


def depthwise_in_float32(model: nn.Module) -> None:
    """Keeps depthwise convolutions of a model, in place, out of autocast.

    On the CPU their gradients in bfloat16 take several times as long as in float32, while the forward pass
    gains little: there is no matrix product in them. Both were measured, with AMX.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.__class__ = _in_float32(type(module))  # type: ignore[assignment, arg-type]


class _FrozenNorm(torch.autograd.Function):
    """Batch norm by fixed statistics, weight and bias, of which only the input has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float):
        ctx.save_for_backward(weight * (var + eps).rsqrt())
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (scale,) = ctx.saved_tensors
        return grad * scale.to(grad.dtype).view(1, -1, 1, 1), None, None, None, None, None


def _frozen_norm(module: Any, x: Tensor) -> Tensor:
    return _FrozenNorm.apply(
        x, module.running_mean, module.running_var, module.weight, module.bias, module.eps
    )


class _FusedFrozenBatchNorm2d(FrozenBatchNorm2d):
    plain_class = FrozenBatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        return _frozen_norm(self, x)


class _Act(nn.Module):
    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_frozen_norm(self, x)))


class _InFloat32(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


# Classes of their own, and not hooks or new attributes, so that copies of a model are whole.
@functools.cache
def _with_act(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (_Act, cls), {"__module__": __name__, "plain_class": cls})


@functools.cache
def _in_float32(cls: type[nn.Module]) -> type[nn.Module]:
    return (
        cls
        if issubclass(cls, _InFloat32)
        else type(cls.__name__, (_InFloat32, cls), {"__module__": __name__, "plain_class": cls})
    )
