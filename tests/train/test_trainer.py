"""The trainer's step: precision, accumulation and losses that are not finite, by hand-computed values."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.utils.events import EventStorage
from helpers.tiny_runs import TINY, metrics_of
from helpers.training import synthetic_inputs
from torch import nn

from mrcnn_plugin.config import load_config
from mrcnn_plugin.train.trainer import NonFiniteLoss, Trainer

BFLOAT16 = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)


class Square(nn.Module):
    """Losses (w x)^2, a matrix product, and 0; keeps the types in which the former was computed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.layer.weight, 0.5)
        self.dtypes = []

    def forward(self, data):
        y = self.layer(data)
        self.dtypes.append(y.dtype)
        return {"loss_a": y.float().square().mean(), "loss_b": 0 * y.float().sum()}


class Batches:
    """A loader of these batches, in files named by their numbers."""

    def __init__(self, *batches):
        self.batches = batches
        self.last_files = []

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            self.last_files = [f"{number}.jpg"]
            yield torch.tensor(batch).reshape(-1, 1)


def trainer_of(*batches, lr=0.25, **options):
    model = Square().train()
    return Trainer(model, Batches(*batches), torch.optim.SGD(model.parameters(), lr=lr), **options)


def step(trainer):
    with EventStorage() as storage:
        trainer.run_step()
    return {name: value for name, (value, _) in storage.latest().items() if name != "data_time"}


def test_one_step_in_bfloat16_by_hand():
    # 1 + 2^-9 needs ten bits and rounds to 1 in bfloat16; (w x)^2 has the gradient 2 w x^2 = 1.
    trainer = trainer_of([1 + 2.0**-9], precision=BFLOAT16)
    logged = step(trainer)
    assert trainer.model.dtypes == [torch.bfloat16]
    assert trainer.model.layer.weight.dtype == torch.float32
    assert trainer.model.layer.weight.item() == 0.25
    assert logged == {"total_loss": 0.25, "loss_a": 0.25, "loss_b": 0.0}
    assert not torch.is_autocast_enabled("cpu")


def test_accumulated_step_by_hand():
    # Losses 0.25 x^2: of 1 and of 2 their mean is (0.25 + 1) / 2; the gradient is 2 w mean(x^2) = 2.5.
    trainer = trainer_of([1.0], [2.0], [4.0], [8.0], accumulate=2, lr=0.1)
    assert step(trainer) == {"total_loss": 0.625, "loss_a": 0.625, "loss_b": 0.0}
    assert trainer.model.layer.weight.item() == pytest.approx(0.25)
    # From w = 0.25: 2 w mean(16, 64) = 20.
    step(trainer)
    assert trainer.model.layer.weight.item() == pytest.approx(0.25 - 2.0)


def test_accumulation_is_the_large_batch():
    numbers = torch.randn(8, generator=torch.Generator().manual_seed(0)).tolist()
    small = trainer_of(numbers[:2], numbers[2:4], numbers[4:6], numbers[6:], accumulate=4)
    large = trainer_of(numbers)
    assert step(small) == pytest.approx(step(large), abs=1e-6)
    assert small.model.layer.weight.item() == pytest.approx(large.model.layer.weight.item(), abs=1e-6)


def test_accumulation_is_the_large_batch_of_a_detector():
    """All anchors and proposals are sampled, and as many RoIs of each kind in every image."""
    inputs = synthetic_inputs([(64, 64)] * 4, num_instances=3, num_classes=4)
    config = load_config(
        str(TINY),
        [
            'model.backbone.bottom_up.stem.norm=""',
            'model.backbone.bottom_up.stages.0.norm=""',
            'model.backbone.bottom_up.stages.1.norm=""',
            "model.proposal_generator.batch_size_per_image=1000",
            "model.proposal_generator.nms_thresh=1.0",
            "model.roi_heads.batch_size_per_image=64",
            "model.roi_heads.proposal_matcher.thresholds=[0.99]",
            "+train.device=cpu",
        ],
    )
    trained = []
    for batches, accumulate in ((inputs,), 1), ((inputs[:2], inputs[2:]), 2):
        torch.manual_seed(0)
        model = config.build_model().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        trainer = Trainer(model, Lists(batches), optimizer, accumulate=accumulate)
        logged = [step(trainer) for _ in range(3)]
        trained.append((logged, model.state_dict()))
    (large, weights), (small, accumulated) = trained
    for one, other in zip(large, small):
        assert one["roi_head/num_fg_samples"] == other["roi_head/num_fg_samples"] == 3
        losses = [name for name in one if "loss" in name]
        assert [one[n] for n in losses] == pytest.approx([other[n] for n in losses], abs=1e-5)
    assert max((weights[name] - accumulated[name]).abs().max().item() for name in weights) < 1e-5


class Lists(Batches):
    """Batches of dataset dicts, over and over."""

    def __init__(self, batches):
        super().__init__(*batches)

    def __iter__(self):
        return itertools.cycle(self.batches)


def test_a_loss_that_is_not_finite_is_named_with_its_files_and_leaves_the_weights():
    trainer = trainer_of([1.0], [math.nan], accumulate=2)
    trainer.iter = 7
    with pytest.raises(NonFiniteLoss) as stop:
        step(trainer)
    assert stop.value.iteration == 7
    assert math.isnan(stop.value.losses["loss_a"])
    assert stop.value.batches == {0: ["1.jpg"]}
    assert trainer.model.layer.weight.item() == 0.5


def test_the_engine_trains_in_bfloat16(train, finished_run, tmp_path):
    assert train(tmp_path, "train.amp.enabled=True") == 0
    half, full = (
        [m["total_loss"] for m in metrics_of(run) if "total_loss" in m] for run in (tmp_path, finished_run)
    )
    assert half == pytest.approx(full, rel=0.1)
    assert half[0] != full[0]
    assert LazyConfig.load(str(tmp_path / "config.yaml")).train.amp.enabled


def test_what_is_kept_of_the_scalars_has_an_end():
    trainer = trainer_of(*[[0.0]] * 1200)
    trainer.train(0, 1200)
    history = trainer.storage.history("total_loss")
    assert [iteration for _, iteration in history.values()] == list(range(200, 1200))
    assert history.global_avg() == 0
