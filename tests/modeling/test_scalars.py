"""Metrics that are brought to the host together: the same names and values, and how many copies."""

import contextlib

import pytest
import torch
from detectron2.utils.events import EventStorage

from mrcnn_plugin.modeling import scalars
from mrcnn_plugin.modeling.scalars import one_transfer, put_scalars, transfer


@pytest.fixture
def copies(monkeypatch):
    """How many numbers each copy has brought."""
    found = []
    original = scalars._numbers

    def count(values):
        if values:
            found.append(len(values))
        return original(values)

    monkeypatch.setattr(scalars, "_numbers", count)
    return found


def put(name, *values):
    put_scalars([torch.tensor(value) for value in values], lambda *got: {name: sum(got)})


def values_of(storage):
    return {name: value for name, (value, _) in storage.latest().items()}


def test_at_once_outside_of_a_context(copies):
    with EventStorage() as storage:
        put("a", 1, 2.5)
        assert values_of(storage) == {"a": 3.5}
    assert copies == [2]


def test_together_within_one(copies):
    with EventStorage() as storage:
        with one_transfer():
            put("a", 1, 2)
            with one_transfer(), storage.name_scope("stage1"):
                put("b", 4)
            assert values_of(storage) == {}
        put("c", 5)
        assert values_of(storage) == {"a": 3, "stage1/b": 4, "c": 5}
    assert copies == [3, 1]


def test_with_other_numbers(copies):
    with EventStorage() as storage, one_transfer():
        put("a", True)
        assert transfer([torch.tensor(0.5), torch.tensor([7])]) == [0.5, 7]
        assert values_of(storage) == {"a": 1}
    assert copies == [3]


def test_an_error_leaves_nothing_behind(copies):
    with EventStorage() as storage:
        with contextlib.suppress(KeyError), one_transfer():
            put("a", 1)
            raise KeyError
        put("b", 2)
        assert values_of(storage) == {"b": 2}
    assert copies == [1]
