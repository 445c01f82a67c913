"""Checks of a model before it is trained: what would starve it, or let its first step fail."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mrcnn_plugin.errors import ConfigError


def check_anchors(model: nn.Module) -> None:
    """Compares an RPN's anchors with its head and with the maps that it reads.

    Raises:
        ConfigError: their numbers or their strides differ, or a map does not exist.
    """
    backbone: Any = getattr(model, "backbone", None)
    rpn: Any = getattr(model, "proposal_generator", None)
    generator = getattr(rpn, "anchor_generator", None)
    features = list(getattr(rpn, "in_features", ()))
    if generator is None or not hasattr(backbone, "output_shape"):
        return
    maps = backbone.output_shape()
    missing = [name for name in features if name not in maps]
    if missing:
        raise ConfigError(
            f"model.proposal_generator.in_features (YAML: MODEL.RPN.IN_FEATURES) names {missing[0]!r}, but "
            f"the backbone gives {', '.join(maps)}"
        )
    counts = getattr(generator, "num_cell_anchors", None)
    if counts is not None and len(counts) != len(features):
        raise ConfigError(
            f"model.proposal_generator.anchor_generator (YAML: MODEL.ANCHOR_GENERATOR) has sizes or strides "
            f"for {len(counts)} maps, but the RPN reads {len(features)}: {', '.join(features)}"
        )
    predicted = getattr(getattr(rpn.rpn_head, "objectness_logits", None), "out_channels", None)
    if counts is not None and predicted is not None and set(counts) != {predicted}:
        raise ConfigError(
            f"model.proposal_generator.head.num_anchors is {predicted}, but the anchor generator gives "
            f"{', '.join(map(str, counts))} anchors per place of its maps; make them equal"
        )
    strides = [maps[name].stride for name in features]
    given = list(getattr(generator, "strides", strides))
    if None not in strides and given != strides:
        raise ConfigError(
            f"model.proposal_generator.anchor_generator.strides are {given}, but the maps "
            f"{', '.join(features)} have {strides}"
        )


def check_frozen_norms(model: nn.Module, key: str) -> None:
    """Refuses frozen normalisation in a model that was not given the weights it was frozen for.

    A frozen norm starts as the identity and never changes: above random convolutions the activations
    grow or vanish from layer to layer, and the first losses are infinite or NaN.

    Args:
        key: what sets the weights to start from.

    Raises:
        ConfigError: every frozen norm is still as it was initialised.
    """
    # timm has classes of its own, which begin with the same word.
    frozen = [module for module in model.modules() if type(module).__name__.startswith("FrozenBatchNorm")]
    if frozen and all(map(_is_identity, frozen)):
        raise ConfigError(
            "the model has frozen normalisation (FrozenBN) on random weights, which does not train: either "
            f"give pre-trained weights, {key}=FILE, or train the norms as well, as BN, GN or SyncBN with "
            "freeze_at 0 (of a ResNet below an FPN: model.backbone.bottom_up.stem.norm=BN, .stages.norm=BN "
            "and .freeze_at=0; YAML: MODEL.RESNETS.NORM BN MODEL.BACKBONE.FREEZE_AT 0)"
        )


@torch.no_grad()
def _is_identity(norm: Any) -> bool:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    # timm's keep the variance 1 and add epsilon to it; the last norm of a residual block may start as 0.
    return bool((((scale - 1).abs() < 1e-2) | (scale == 0)).all() and not shift.any())


def check_scheduler(scheduler: object, max_iter: int, key: str) -> None:
    """Refuses a torch scheduler that ends before the run does.

    Raises:
        ConfigError: it takes fewer steps than there are iterations.
    """
    steps = getattr(scheduler, "total_steps", None)
    if isinstance(steps, int) and steps < max_iter:
        raise ConfigError(f"{key} is for {steps} iterations, but the run has {max_iter}; make them equal")
