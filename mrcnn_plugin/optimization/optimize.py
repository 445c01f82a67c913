"""A copy of a trained model for inference."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError

from .backbones import fuse_backbones
from .compilation import compile_backbone
from .convolution import fuse_all, use_matrix_tiles, use_winograd
from .heads import optimize_heads, use_matrix_tiles_in_heads
from .norms import fold_attached
from .precision import chosen_precision, use_bfloat16
from .proposals import optimize_proposals
from .substitution import undo
from .tracing import fold_traced

logger = logging.getLogger(__name__)


@torch.no_grad()
def optimize(
    model: nn.Module, *, winograd: bool = True, matrix_tiles: bool = True, precision: str = "float32"
) -> nn.Module:
    """A faster copy of a detector for inference, which returns what the detector does, within rounding.

    In the copy, norms with fixed statistics are part of the convolutions before them, and these add
    residuals and apply activations as they write. Maps and RoI features lie channels last from the image to
    the last layer. Boxes are decoded only for anchors and scores that are kept, and of a mask's four
    subpixels only the logits that are used change places.

    What it does not know stays as it is: any module works, and those of this package and its projects, of
    Detectron2's R-CNN family and the convolutional networks of timm become faster.

    Args:
        model: on any device. It is not changed, nor does the copy share memory with it: training goes on.
        winograd: on the CPU, compute 3x3 convolutions by `mrcnn_plugin.ops.winograd_conv2d`: the most gain,
            for rounding errors of some millionths and a copy of twice the size.
        matrix_tiles: on processors with AMX, multiply float32 as sums of two bfloat16
            (`mrcnn_plugin.ops.split_conv2d`) in 1x1 and 3x3 convolutions of many channels: faster than
            Winograd's scheme, with rounding errors like his, for the memory of the weights once more.
        precision: "float32"; "bfloat16" for dense parts in it, whose results differ in the third digit; or
            "auto", which measures whether the processor gains by it.

    Returns:
        A model of the same class, in evaluation mode, without gradients. Its parameters are not those that
        checkpoints hold: save `model`. Calling it in training mode raises RuntimeError.

    Raises:
        ConfigError, ValueError: an unknown precision, or one for a model that is such a copy already.
    """
    # torch's annotations of Module.to know no memory format.
    faster: Any = copy.deepcopy(model).eval().requires_grad_(False)
    if _refuse_training in faster._forward_pre_hooks.values():
        # It is an optimized copy already.
        if precision != "float32":
            raise ValueError("the model is an optimized copy: give the one that it is of another precision")
        return faster
    # Of a model in training, whose layers have kernels with gradients.
    undo(faster)
    fold_attached(faster)
    for backbone, example in _backbones(faster):
        fold_traced(backbone, example)
    fuse_all(faster)
    fuse_backbones(faster)
    optimize_heads(faster)
    optimize_proposals(faster)
    faster.to(memory_format=torch.channels_last)
    for backbone, _ in _backbones(faster):
        backbone.register_forward_pre_hook(_to_channels_last)
    if chosen_precision(precision) == "bfloat16":
        use_bfloat16(faster)
    if matrix_tiles:
        use_matrix_tiles(faster)
        use_matrix_tiles_in_heads(faster)
    if winograd:
        use_winograd(faster)
    faster.register_forward_pre_hook(_refuse_training)
    return faster


def optimize_for_device(model: nn.Module, precision: str = "float32", *, compiled: bool = False) -> nn.Module:
    """What the programs run: an optimized copy on the CPU, elsewhere the model itself in evaluation mode.

    Args:
        precision: as for `optimize`.
        compiled: whether the copy's backbone is compiled (`compile_backbone`).

    Raises:
        ConfigError: bfloat16 or a compiled copy is requested of a model that is not on the CPU.
    """
    device = next((parameter.device.type for parameter in model.parameters()), "none")
    if device != "cpu":
        if precision == "bfloat16" or compiled:
            what = "a compiled backbone" if compiled else "precision bfloat16"
            raise ConfigError(f"{what} is for models on the CPU, this one is on {device}")
        return model
    start = time.perf_counter()
    faster = optimize(model, precision=precision)
    if compiled:
        compile_backbone(faster)
    logger.info(f"Optimized a copy of the model for inference in {time.perf_counter() - start:.1f} s")
    return faster


def _backbones(model: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """What turns images into maps, with an image that it takes."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return []
    side = max(64, 2 * (getattr(backbone, "size_divisibility", 0) or 32))
    # A conv's own channels are those of the image: the first that the module has.
    channels = next((m.in_channels for m in backbone.modules() if isinstance(m, nn.Conv2d)), 3)
    return [(backbone, torch.zeros(1, channels, side, side, device="meta"))]


def _to_channels_last(module: nn.Module, inputs: tuple) -> tuple:
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)


def _refuse_training(module: nn.Module, inputs: tuple) -> None:
    if module.training:
        raise RuntimeError("a model from mrcnn_plugin.optimize is for inference: train the one that it is of")
