"""Mixed precision on the CPU, where Detectron2's AMPTrainer does not run."""

from __future__ import annotations

import time

import torch
from detectron2.engine import SimpleTrainer


class BFloat16Trainer(SimpleTrainer):
    """SimpleTrainer whose forward runs under bfloat16 autocast on the CPU.

    Convolutions and matrix products take bfloat16, parameters and losses stay float32. bfloat16 has the
    range of float32, so that gradients need no scaling.
    """

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = self.model(data)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()
