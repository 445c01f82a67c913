"""Optimizers for LazyConfigs, with gradient clipping, which Detectron2 offers to YAML configs only."""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.utils.registry import locate
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer


def build_optimizer(
    optimizer: str | type[Optimizer],
    params: Iterable,
    clip_norm: float | None = None,
    norm_type: float = 2.0,
    **kwargs,
) -> Optimizer:
    """Builds an optimizer that clips the gradients before each of its steps.

    Clipping happens within `step()`, so that it works under any trainer; under AMP the gradients have been
    unscaled by then.

    Args:
        optimizer: its class, or the class's full name, such as "torch.optim.AdamW".
        params: parameters or parameter groups.
        clip_norm: upper bound of the norm of all gradients taken together; None or 0 is no bound.
        norm_type: which p-norm that is.
        kwargs: arguments of the optimizer.
    """
    cls = locate(optimizer) if isinstance(optimizer, str) else optimizer
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise ValueError(
            f"optimizer must be a torch.optim.Optimizer class or its full name, got {optimizer!r}"
        )
    built = cls(params, **kwargs)
    if clip_norm:
        if clip_norm < 0:
            raise ValueError(f"clip_norm must be positive, or None for no clipping, got {clip_norm}")

        def clip(stepped: Optimizer, args: tuple, kwargs: dict) -> None:
            clip_grad_norm_(
                [p for group in stepped.param_groups for p in group["params"]], clip_norm, norm_type
            )

        built.register_step_pre_hook(clip)
    return built
