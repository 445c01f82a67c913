"""The average of weights and buffers, by hand."""

from __future__ import annotations

import torch
from torch import nn

from mrcnn_plugin.train.ema import WeightAverage


def model_of(weight):
    model = nn.BatchNorm1d(1)
    set_to(model, weight)
    return model


def set_to(model, weight):
    nn.init.constant_(model.weight, weight)
    model.running_mean.fill_(10 * weight)


def held(average):
    return average.model.weight.item(), average.model.running_mean.item()


def test_average_by_hand():
    model = model_of(0.0)
    average = WeightAverage(model, decay=0.75)
    # What is loaded after the hook is made counts as e_0.
    set_to(model, 1.0)
    average.before_train()
    assert held(average) == (1.0, 10.0)
    set_to(model, 5.0)
    average.after_step()
    # 0.75 * 1 + 0.25 * 5
    assert held(average) == (2.0, 20.0)
    set_to(model, 10.0)
    average.after_step()
    # 0.75 * 2 + 0.25 * 10
    assert held(average) == (4.0, 40.0)
    assert not average.model.training
    assert model.weight.item() == 10.0


def test_a_loaded_average_goes_on():
    model = model_of(1.0)
    first = WeightAverage(model, 0.5)
    first.before_train()
    resumed = WeightAverage(model_of(7.0), 0.5)
    resumed.average.load_state_dict(first.average.state_dict())
    resumed.before_train()
    assert held(resumed) == (1.0, 10.0)
    resumed.after_step()
    assert held(resumed) == (4.0, 40.0)


def test_gradients_of_the_trained_model_are_its_own():
    model = model_of(1.0)
    average = WeightAverage(model, 0.5)
    model(torch.ones(2, 1)).sum().backward()
    assert average.model.weight.grad is None
