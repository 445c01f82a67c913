"""bfloat16 on the CPU: what runs in it, what stays float32, and that the engine picks it."""

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.utils.events import EventStorage
from helpers.tiny_runs import metrics_of
from torch import nn

from mrcnn_plugin.train.bfloat16_trainer import BFloat16Trainer


class Square(nn.Module):
    """Loss w * x, a matrix product; keeps the type in which it was computed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.layer.weight, 0.5)
        self.dtypes = []

    def forward(self, data):
        y = self.layer(data)
        self.dtypes.append(y.dtype)
        return {"loss": y.float().square().sum()}


def one_step(model, data):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    trainer = BFloat16Trainer(model, [data], optimizer)
    with EventStorage() as storage:
        trainer.run_step()
    return storage


def test_one_step_by_hand():
    model = Square().train()
    # 1 + 2^-9 needs ten bits and rounds to 1 in bfloat16; (w x)^2 has the gradient 2 w x^2 = 1.
    storage = one_step(model, torch.tensor([[1 + 2.0**-9]]))
    assert model.dtypes == [torch.bfloat16]
    assert model.layer.weight.dtype == torch.float32
    assert model.layer.weight.item() == 0.25
    assert storage.latest()["total_loss"][0] == 0.25


def test_autocast_ends_with_the_forward():
    model = Square().train()
    one_step(model, torch.ones(1, 1))
    assert not torch.is_autocast_enabled("cpu")


def test_the_engine_trains_in_bfloat16(train, finished_run, tmp_path):
    assert train(tmp_path, "train.amp.enabled=True") == 0
    half, full = (
        [m["total_loss"] for m in metrics_of(run) if "total_loss" in m] for run in (tmp_path, finished_run)
    )
    assert half == pytest.approx(full, rel=0.1)
    assert half[0] != full[0]
    assert LazyConfig.load(str(tmp_path / "config.yaml")).train.amp.enabled
