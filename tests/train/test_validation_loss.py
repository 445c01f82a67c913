"""Losses on the test set: values by hand, nothing of the model changes, and they reach the curves."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from mrcnn_plugin.reporting.curves import curves_figure
from mrcnn_plugin.train.validation_loss import validation_losses


class DropPath(nn.Module):
    """As timm's: drops in training mode."""

    def forward(self, x):
        return torch.zeros_like(x) if self.training else x


class Model(nn.Module):
    """Losses of inputs normalised by running statistics; refuses to give them in eval mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, eps=1e-9)
        self.norm.running_mean.fill_(1.0)
        self.norm.running_var.fill_(4.0)
        self.rest = nn.Sequential(nn.Dropout(0.9), DropPath())
        self.drawn = []

    def forward(self, batch):
        assert self.training
        get_event_storage().put_scalar("fast_rcnn/accuracy", 1.0)
        self.drawn.append(torch.rand(()).item())
        x = self.rest(self.norm(torch.tensor(batch).reshape(-1, 1)))
        return {"loss_a": x.mean(), "loss_b": 2 * x.mean() + self.norm.weight.sum()}


def test_means_by_hand():
    # Normalised: (3 - 1) / 2 = 1 and (9 - 1) / 2 = 4.
    losses = validation_losses(Model(), [[3.0], [9.0]])
    assert losses == pytest.approx(
        {"validation/loss_a": 2.5, "validation/loss_b": 6.0, "validation/total_loss": 8.5}
    )
    assert validation_losses(Model(), []) == {}


def test_the_model_is_left_as_it_was():
    model = Model()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(()).item()
    torch.manual_seed(0)
    with EventStorage() as storage:
        validation_losses(model, [[3.0], [9.0]])
        assert storage.latest() == {}, "its own scalars are about training"
    assert torch.rand(()).item() == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.norm.training
    assert model.norm.weight.grad is None
    # The same RoIs in every evaluation.
    assert len({*model.drawn}) == 1


def test_curves_show_them_dashed_in_the_colour_of_training():
    metrics = {
        "total_loss": {0: 4.0, 10: 3.0},
        "loss_mask": {0: 2.0, 10: 1.0},
        "loss_cls": {0: 2.0, 10: 1.0},
        "validation/total_loss": {10: 3.5},
        "validation/loss_mask": {10: 1.5},
    }
    axes = curves_figure(metrics).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "total",
        "total, test set",
        "cls",
        "mask",
    ]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[3.5], [1.5]]
    mask = next(line for line in axes.lines if line.get_label() == "mask")
    assert dashed[1].get_color() == mask.get_color()
