"""Trainers whose host waits for the device once a step, for losses and metrics together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor, nn
from torch.optim import Optimizer

from mrcnn_plugin.modeling.matching import to_device
from mrcnn_plugin.modeling.scalars import one_transfer, transfer

from .bfloat16_trainer import BFloat16Trainer

Batch = list[dict]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch of Detectron2's input dicts, copied to a device; the host does not wait for the copies."""
    copies = []
    for image in batch:
        fields = {name: image[name] for name in ("instances", "proposals") if name in image}
        moved = {name: to_device(value, device) for name, value in fields.items()}
        copies.append(image | moved | {"image": image["image"].to(device, non_blocking=True)})
    return copies


class _OnDevice:
    """The batches of a loader, on a device."""

    def __init__(self, loader: Iterable[Batch], device: torch.device) -> None:
        self._loader = loader
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield on_device(batch, self._device)


class _OneTransfer(SimpleTrainer):
    """What the model logs on its way waits for the losses, which the host reads after the backward pass."""

    def __init__(
        self, model: nn.Module, data_loader: Iterable[Batch], optimizer: Optimizer, *args, **kwargs
    ) -> None:
        device = next(model.parameters()).device
        # With pictures of the training Detectron2 needs the ground truth on the host.
        pictures = getattr(getattr(model, "module", model), "vis_period", 0)
        if device.type != "cpu" and not pictures:
            data_loader = _OnDevice(data_loader, device)
        super().__init__(model, data_loader, optimizer, *args, **kwargs)

    def run_step(self) -> None:
        with one_transfer():
            super().run_step()

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "") -> None:
        # Before the optimizer's step: losses that are not finite stop the run here.
        numbers = transfer(list(loss_dict.values()))
        on_host = {name: torch.tensor(number) for name, number in zip(loss_dict, numbers)}
        super()._write_metrics(on_host, data_time, prefix)


class Float32Trainer(_OneTransfer, SimpleTrainer):
    """Detectron2's SimpleTrainer."""


class CudaAMPTrainer(_OneTransfer, AMPTrainer):
    """Detectron2's AMPTrainer; its gradient scaler reads one number more."""


class CpuAMPTrainer(_OneTransfer, BFloat16Trainer):
    """BFloat16Trainer."""
