"""A resumed loader gives what an unbroken one would have given: the same images, changed in the same way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler

from mrcnn_plugin.train.exact_resume import Batches, RunSeed, continue_at


def draw(dataset_dict: dict) -> dict:
    """A mapper whose output is random in each of the three ways."""
    numbers = (random.random(), np.random.rand(), float(torch.rand(1)))  # noqa: NPY002
    return {**dataset_dict, "numbers": numbers}


IMAGES = [{"id": i, "width": 10 + (i % 3 == 0), "height": 10} for i in range(11)]


def batches(start: int, stop: int, seed: int = 5, sampler=None, **options) -> list:
    run_seed = RunSeed()
    run_seed.value = seed
    np.random.seed(seed)  # noqa: NPY002
    made = sampler() if sampler else None
    loader = build_detection_train_loader(IMAGES, mapper=draw, total_batch_size=4, sampler=made, **options)
    continue_at(loader, run_seed, start)
    source = Batches()
    source.source = loader
    iterator = iter(source)
    return [[(image["id"], image["numbers"]) for image in next(iterator)] for _ in range(start, stop)]


def repeated() -> RepeatFactorTrainingSampler:
    return RepeatFactorTrainingSampler(torch.linspace(1, 3, len(IMAGES)))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("sampler", [None, repeated])
def test_any_start_continues_the_order(grouped, sampler):
    def some(start: int, stop: int) -> list:
        return batches(start, stop, sampler=sampler, aspect_ratio_grouping=grouped)

    whole = some(0, 12)
    for start in (1, 2, 5, 11):
        assert some(start, 12) == whole[start:]
    flat = [entry for batch in whole for entry in batch]
    assert len({numbers for _, numbers in flat}) == len(flat), "images were changed in the same way"
    assert batches(0, 12, seed=6, aspect_ratio_grouping=grouped) != whole


def test_the_number_of_workers_changes_nothing():
    whole = batches(0, 5)
    assert batches(0, 5, num_workers=2) == whole
    assert batches(3, 5, num_workers=3) == whole[3:]


def test_grouping_is_detectron2s():
    for batch in batches(0, 12):
        assert len({IMAGES[index]["width"] for index, _ in batch}) == 1


def test_loading_leaves_the_generators_of_the_step_alone():
    def numbers() -> tuple:
        return random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002

    loader = build_detection_train_loader(IMAGES, mapper=draw, total_batch_size=4)
    source = Batches()
    source.source = loader
    continue_at(loader, RunSeed(), 0)
    drawn = []
    for iterator in (iter(source), iter([[], []])):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(3)
        next(iterator)
        drawn.append(numbers())
    assert drawn[0] == drawn[1]


def test_a_loader_of_another_form_is_kept_and_said_so(caplog):
    loader = iter([[1], [2]])
    continue_at(loader, RunSeed(), 0)
    assert not caplog.text
    continue_at(loader, RunSeed(), 4)
    assert "images come in a new order" in caplog.text
    assert next(loader) == [1]


def test_seeds_of_different_uses_differ():
    seed = RunSeed()
    seeds = {seed.derived(kind, rank, i) for kind in (0, 1) for rank in (0, 1) for i in range(100)}
    assert len(seeds) == 400
    other = RunSeed()
    other.load_state_dict(seed.state_dict())
    assert other.derived(1, 2, 3) == seed.derived(1, 2, 3)
