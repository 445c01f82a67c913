"""What a run says when a loss is no longer finite."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator

import torch

from mrcnn_plugin.checkpoint import DetectionCheckpointer, read_checkpoint
from mrcnn_plugin.errors import DivergedError

from .trainer import NonFiniteLoss

_MOST_FILES = 16


def explain(stop: NonFiniteLoss, checkpointer: DetectionCheckpointer, init_key: str) -> DivergedError:
    """The error that ends the run: iteration, losses, pictures, and where to go on.

    Args:
        init_key: the user's spelling of the key that names the weights to start from.
    """
    losses = sorted(stop.losses.items(), key=lambda item: math.isfinite(item[1]))
    shown = ", ".join(f"{name} = {value:.4g}" for name, value in losses)
    lines = [
        f"a loss is not finite at iteration {stop.iteration}, whose step was not taken",
        f"  losses: {shown}" if losses else f"  {stop.why}",
        *(f"  files: {_shown(files)}" + _of_rank(rank, stop) for rank, files in stop.batches.items()),
    ]
    good = last_finite_checkpoint(checkpointer)
    if good is None:
        lines.append("  no checkpoint with finite weights was saved yet")
        way = "look at these files and their annotations, and lower the learning rate"
    else:
        lines.append(f"  last good checkpoint: {good}")
        way = f"look at these files, lower the learning rate, and start from it: {init_key}={good}"
    return DivergedError("\n".join([*lines, f"  {way}"]), of_one_process=bool(stop.why))


def _shown(files: list[str]) -> str:
    more = len(files) - _MOST_FILES
    return ", ".join(files[:_MOST_FILES]) + (f" and {more} more" if more > 0 else "")


def _of_rank(rank: int, stop: NonFiniteLoss) -> str:
    return f" (process {rank})" if len(stop.batches) > 1 or rank else ""


def last_finite_checkpoint(checkpointer: DetectionCheckpointer) -> str | None:
    """The newest checkpoint of a run folder whose weights are all finite, to resume or to start from."""
    return next((path for path in _newest_first(checkpointer) if _is_finite(path)), None)


def _newest_first(checkpointer: DetectionCheckpointer) -> Iterator[str]:
    if not checkpointer.has_checkpoint():
        return
    # model_best.pth and the like have weights only.
    names = {os.path.basename(path) for path in checkpointer.get_all_checkpoint_files()}
    numbered = sorted(name for name in names if name.removesuffix(".pth").rpartition("_")[2].isdigit())
    last = os.path.basename(checkpointer.get_checkpoint_file())
    yield from (os.path.join(checkpointer.save_dir, name) for name in dict.fromkeys([last, *numbered[::-1]]))


def _is_finite(path: str) -> bool:
    try:
        weights = read_checkpoint(path)["model"]
    except (OSError, ValueError, KeyError, pickle.UnpicklingError):
        return False
    return all(bool(torch.isfinite(w).all()) for w in weights.values() if w.is_floating_point())
