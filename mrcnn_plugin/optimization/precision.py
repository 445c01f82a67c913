"""Optimized copies that convolve and multiply in bfloat16."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import MLPMaskHead, OneHotKeypointHead, ROIPooler
from mrcnn_plugin.timing import times_as_fast

from .convolution import fuse, has_onednn, use_winograd

logger = logging.getLogger(__name__)

#: What a precision may be; "auto" measures.
PRECISIONS = ("auto", "float32", "bfloat16")
# Convolutions so many times as fast are worth bfloat16's three digits.
_LEAST_GAIN = 1.5


def check_precision(precision: str, name: str) -> str:
    """`precision`, one of `PRECISIONS`.

    Raises:
        ConfigError: it is none, as the value of the option or key `name`.
    """
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise ConfigError(f"{name} must be one of {known}, got {precision!r}")
    return precision


@functools.cache
def measure_bfloat16_gain() -> float:
    """How many times as fast as in float32 an optimized copy convolves in bfloat16 here; takes a tenth of a
    second. Processors without instructions for bfloat16 are slower in it."""
    if not has_onednn(torch.bfloat16):
        return 0.0
    convs: list[Any] = [nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False) for _ in range(2)]
    x = torch.randn(1, 256, 48, 72).contiguous(memory_format=torch.channels_last)
    for conv in convs:
        fuse(conv.to(memory_format=torch.channels_last))
    use_winograd(nn.ModuleList(convs[:1]))
    convs[1].to(torch.bfloat16)
    low = x.to(torch.bfloat16)
    return times_as_fast(lambda: convs[0](x), lambda: convs[1](low), rounds=8)


def chosen_precision(precision: str) -> str:
    """What one of `PRECISIONS` stands for here, with a line in the log where that was measured."""
    if check_precision(precision, "precision") != "auto":
        return precision
    gain = measure_bfloat16_gain()
    chosen = "bfloat16" if gain >= _LEAST_GAIN else "float32"
    logger.info(
        f"Precision {chosen}: a convolution in bfloat16 is {gain:.1f} times as fast as in float32 here"
    )
    return chosen


def use_bfloat16(model: nn.Module) -> None:
    """Lets, in place, an optimized copy compute in bfloat16 where the work is.

    That is in the backbone, the RPN's head, and the box, mask and keypoint heads that this package knows.

    What leaves these parts is float32, but for the maps and what is pooled from them. Class scores, boxes and
    keypoint heatmaps come from float32 layers, as bfloat16 has three digits: scores would tie. Heads of other
    classes compute in float32.
    """
    part: Any = model
    if isinstance(getattr(part, "backbone", None), nn.Module):
        _compute_in(part.backbone, torch.bfloat16)
    for name, child in model.named_children():
        head = getattr(child, "rpn_head", None)
        if name == "proposal_generator" and isinstance(head, nn.Module):
            _compute_in(head, torch.bfloat16)
            head.register_forward_hook(_to_float32)
        elif name == "roi_heads":
            _convert_heads(child)
        elif name != "backbone":
            _compute_in(child, torch.float32)


def _convert_heads(heads: nn.Module) -> None:
    for name, child in heads.named_children():
        for head in child if isinstance(child, nn.ModuleList) else [child]:
            if name.endswith("pooler"):
                if not isinstance(head, ROIPooler):
                    # Others pool in the dtype of the maps, boxes included.
                    head.register_forward_pre_hook(functools.partial(_cast_inputs, torch.float32))
            elif name == "res5" or _is_known(head):
                _compute_in(head, torch.bfloat16)
                head.register_forward_hook(_to_float32)
                last = getattr(head, "score_lowres", None)
                if last is not None:
                    _compute_in(last, torch.float32)
            else:
                _compute_in(head, torch.float32)


def _is_known(head: nn.Module) -> bool:
    """Whether a head computes on RoI features alone, by layers that take any dtype."""
    kind: Any = type(head)
    if isinstance(head, FastRCNNConvFCHead):
        return kind.forward is FastRCNNConvFCHead.forward
    if isinstance(head, KRCNNConvDeconvUpsampleHead):
        return kind in (OneHotKeypointHead, KRCNNConvDeconvUpsampleHead)
    return isinstance(head, MaskRCNNConvUpsampleHead | MLPMaskHead) and isinstance(head, BaseMaskRCNNHead)


def _compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Gives a module's parameters a dtype, and at each call its inputs, and those of its layers.

    Heads may be entered by other methods than `forward`, with features of both dtypes.
    """
    module.to(dtype)
    layers = [one for one in module.modules() if not list(one.children()) and list(one.parameters())]
    for one in dict.fromkeys([module, *layers]):
        one.register_forward_pre_hook(functools.partial(_cast_inputs, dtype))


def _cast_inputs(dtype: torch.dtype, module: nn.Module, inputs: tuple) -> tuple:
    return tuple(_cast(one, dtype) for one in inputs)


def _to_float32(module: nn.Module, inputs: tuple, output: Any) -> Any:
    return _cast(output, torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in lists, tuples and dicts, and masks of Instances, in another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Instances):
        if value.has("pred_masks"):
            value.pred_masks = _cast(value.pred_masks, torch.float32)
        return value
    if isinstance(value, dict):
        return {key: _cast(one, dtype) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cast(one, dtype) for one in value)
    return value
