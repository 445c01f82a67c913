"""Detectron2's SimpleTrainer with mixed precision, accumulation, and a stop that explains a bad loss."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor, nn

from mrcnn_plugin.data import ResumableLoader
from mrcnn_plugin.modeling.matching import to_device
from mrcnn_plugin.modeling.scalars import one_transfer, transfer

# Values that a run keeps of each scalar: of so many Detectron2 takes the median, for the time that is left.
_HISTORY = 1000


class StopTraining(BaseException):
    """Leaves the training loop; Detectron2's logs a traceback for every `Exception`."""


class NonFiniteLoss(StopTraining):
    """A loss is infinite or NaN.

    Attributes:
        iteration: the one that was broken off, before its optimizer step.
        batches: rank -> names of the files of its batch, of the ranks whose loss is not finite.
        losses: of the processes' mean, by name; empty where the model itself refused to go on.
        why: what the model said then, on this process alone.
    """

    def __init__(
        self,
        iteration: int,
        batches: Mapping[int, list[str]],
        losses: Mapping[str, float] | None = None,
        why: str = "",
    ) -> None:
        super().__init__(iteration)
        self.iteration = iteration
        self.batches = batches
        self.losses = losses or {}
        self.why = why


class Trainer(SimpleTrainer):
    """Trains in steps of `accumulate` batches each.

    The gradient of a step is the mean of its batches' gradients, as that of several processes is. It equals
    the gradient of one large batch where every part of it has the same weight in the losses' means: the same
    number of images, and for losses that are means over RoIs the same number of RoIs. BatchNorm in training
    mode takes the statistics of each batch.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: ResumableLoader,
        optimizer: torch.optim.Optimizer,
        *,
        accumulate: int = 1,
        precision: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """
        Args:
            model: returns a loss, or losses by name.
            accumulate: batches of each step.
            precision: the context of the forward, such as autocast.
            grad_scaler: of float16's gradients.
        """
        super().__init__(model, data_loader, optimizer)
        # With pictures of the training Detectron2 needs the ground truth on the host.
        pictures = getattr(getattr(model, "module", model), "vis_period", 0)
        device = next(model.parameters(), torch.empty(0)).device
        self._device = torch.device("cpu") if pictures else device
        self.accumulate = accumulate
        self.precision = precision
        self.grad_scaler = grad_scaler

    def before_train(self) -> None:
        # Detectron2 keeps a million of each, which grow to hundreds of megabytes in a long run.
        self.storage._history = defaultdict(functools.partial(HistoryBuffer, max_length=_HISTORY))
        super().before_train()

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("the model is in eval mode; training needs model.train()")
        self.optimizer.zero_grad()
        means: dict[str, float] = {}
        suspects: list[str] = []
        data_time = 0.0
        for part in range(1, self.accumulate + 1):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            losses = self._accumulate(data, last=part == self.accumulate)
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value / self.accumulate
            if not _finite(losses):
                suspects += self.data_loader.last_files
        self._write(means, data_time, suspects)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _accumulate(self, data: Any, *, last: bool) -> dict[str, float]:
        """Adds a batch's share of the gradient; returns its losses.

        Raises:
            NonFiniteLoss: the model found that what it predicts is not finite.
        """
        if self._device.type != "cpu":
            data = on_device(data, self._device)
        with one_transfer(), self._unsynchronized(last):
            with self.precision():
                try:
                    losses = self.model(data)
                except FloatingPointError as error:
                    files = {comm.get_rank(): self.data_loader.last_files}
                    raise NonFiniteLoss(self.iter, files, why=str(error)) from error
                if isinstance(losses, Tensor):
                    losses = {"total_loss": losses}
                total = sum(losses.values()) / self.accumulate
            (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
            # One copy to the host for all of them, and for what the model has logged.
            return dict(zip(losses, transfer(list(losses.values()))))

    def _unsynchronized(self, last: bool) -> AbstractContextManager:
        """Gradients travel between processes with the last batch of a step only."""
        no_sync = getattr(self.model, "no_sync", None)
        return contextlib.nullcontext() if last or no_sync is None else no_sync()

    def _write(self, losses: dict[str, float], data_time: float, suspects: list[str]) -> None:
        """Puts the processes' mean losses into the event storage, as SimpleTrainer does.

        Raises:
            NonFiniteLoss: on every process together.
        """
        gathered = comm.all_gather((losses, data_time))
        means = {name: float(np.mean([one[name] for one, _ in gathered])) for name in losses}
        if not _finite(means):
            files = dict(enumerate(comm.all_gather(suspects)))
            raise NonFiniteLoss(self.iter, {rank: names for rank, names in files.items() if names}, means)
        if comm.is_main_process():
            storage = get_event_storage()
            storage.put_scalar("data_time", max(seconds for _, seconds in gathered))
            storage.put_scalar("total_loss", sum(means.values()))
            if len(means) > 1:
                storage.put_scalars(**means)

    def state_dict(self) -> dict[str, Any]:
        scaler = {} if self.grad_scaler is None else {"grad_scaler": self.grad_scaler.state_dict()}
        return {**super().state_dict(), **scaler}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def on_device(batch: list[dict], device: torch.device) -> list[dict]:
    """A batch of Detectron2's input dicts, copied to a device; the host does not wait for the copies."""
    copies = []
    for image in batch:
        fields = {name: image[name] for name in ("instances", "proposals") if name in image}
        moved = {name: to_device(value, device) for name, value in fields.items()}
        copies.append(image | moved | {"image": image["image"].to(device, non_blocking=True)})
    return copies


def _finite(losses: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, losses.values()))
