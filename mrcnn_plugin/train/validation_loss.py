"""The training losses on the test sets: no gradients, and nothing of the model changes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from mrcnn_plugin.data import kept_generators, seed_generators

#: Before the names of the losses in the event storage.
PREFIX = "validation/"
# Further modules that draw numbers in training, by the names of their classes: timm's and torchvision's.
_STOCHASTIC = ("DropPath", "StochasticDepth")
# Every call draws the same RoIs for the same predictions.
_SEED = 0


@contextlib.contextmanager
def computing_losses(model: nn.Module) -> Iterator[None]:
    """Training mode, but normalisation by running statistics and no dropout: they stay as they are."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, _NormBase | _DropoutNd) or type(module).__name__ in _STOCHASTIC:
                module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def validation_losses(model: nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
    """Mean of each loss over the batches of a loader, and of their total.

    Args:
        model: not wrapped for distributed training; its losses are a dict of scalars.
        loader: batches of mapped dataset dicts with instances; each process has its share.

    Returns:
        "validation/NAME" -> mean, and "validation/total_loss"; the same on every process, empty where there
        was no batch.
    """
    sums: Counter[str] = Counter()
    batches = 0
    # What the model itself logs is about training; it is left out.
    with kept_generators(), computing_losses(model), EventStorage():
        for batch in loader:
            seed_generators(_SEED)
            losses = model(batch)
            values = torch.stack([loss.float() for loss in losses.values()]).tolist()
            for name, value in zip(losses, values):
                sums[name] += value
            batches += 1
    gathered = comm.all_gather((dict(sums), batches))
    total = sum(count for _, count in gathered)
    if not total:
        return {}
    names = sorted({name for one, _ in gathered for name in one})
    means = {name: sum(one.get(name, 0.0) for one, _ in gathered) / total for name in names}
    return {f"{PREFIX}{name}": mean for name, mean in {**means, "total_loss": sum(means.values())}.items()}
