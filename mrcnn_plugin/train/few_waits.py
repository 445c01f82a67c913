"""Trainers whose step brings losses and metrics from the device to the host in one copy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor

from mrcnn_plugin.modeling.scalars import one_transfer, transfer

from .bfloat16_trainer import BFloat16Trainer


class _OneTransfer(SimpleTrainer):
    """What the model logs on its way waits for the losses, which the host reads after the backward pass."""

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
