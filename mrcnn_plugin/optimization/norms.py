"""Normalization with fixed statistics, folded into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import Tensor, nn

# Norms that, in evaluation, multiply each channel by a number and add another; by their classes, as a
# subclass may do more.
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm, FrozenBatchNorm2d)
# timm's, by name, as timm need not be there; those with an activation have it as `act`.
_TIMM_NORMS = {"FrozenBatchNorm2d", "BatchNormAct2d", "FrozenBatchNormAct2d", "SyncBatchNormAct"}


def is_foldable(norm: nn.Module) -> bool:
    """Whether a module scales and shifts each channel by numbers that do not depend on its input."""
    known = type(norm) in _NORMS or (
        type(norm).__module__.startswith("timm.") and type(norm).__name__ in _TIMM_NORMS
    )
    # Without statistics of its own it takes those of the batch.
    return known and norm.running_mean is not None and norm.running_var is not None


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Gives `conv` the weight and bias of `norm(conv(x))`, computed in float64; of an `is_foldable` norm."""
    # mypy does not know the buffers of modules that it has no class for.
    one: Any = norm
    scale = (one.running_var.double() + one.eps).rsqrt()
    if one.weight is not None:
        scale = scale * one.weight.double()
    mean = one.running_mean.double()
    shift = -mean * scale if conv.bias is None else (conv.bias.double() - mean) * scale
    if one.bias is not None:
        shift = shift + one.bias.double()
    weight = conv.weight
    conv.weight = _fixed(weight.double() * scale.view(-1, 1, 1, 1), weight)
    conv.bias = _fixed(shift, weight)


def _fixed(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)


def fold_attached(model: nn.Module) -> None:
    """Folds, in place, the `norm` of Detectron2's Conv2d."""
    module: Any
    for module in model.modules():
        # Not of subclasses: what they do with the weight is their own business.
        if type(module) is Conv2d and module.norm is not None and is_foldable(module.norm):
            fold(module, module.norm)
            module.norm = None
