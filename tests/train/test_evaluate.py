"""Evaluation: which masks the model is asked for, and how results of several sets are put together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from detectron2.evaluation import COCOEvaluator as StockEvaluator
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mrcnn_plugin.config import TestSet
from mrcnn_plugin.evaluation import COCOEvaluator, takes_rle
from mrcnn_plugin.modeling import MaskRCNN
from mrcnn_plugin.train import evaluate


class Seen(DatasetEvaluator):
    """Its result is how many images the model returned with masks of each format."""

    def __init__(self, rle: bool) -> None:
        self.takes_rle = rle

    def reset(self):
        self.formats = []

    def process(self, inputs, outputs):
        self.formats += outputs

    def evaluate(self):
        return {"seen": {name: float(self.formats.count(name)) for name in sorted({*self.formats})}}


class Model(MaskRCNN):
    def __init__(self, mask_format="bitmask"):
        nn.Module.__init__(self)
        self.mask_format = mask_format

    def forward(self, inputs):
        return [self.mask_format for _ in inputs]


def config_of(*sets):
    return SimpleNamespace(test_sets=lambda final: iter(sets))


@pytest.mark.parametrize("rle", [True, False])
def test_masks_are_rle_where_the_evaluator_takes_it(rle):
    model = Model()
    results = evaluate(config_of(TestSet("a", [[1], [2]], Seen(rle))), model, final=True)
    assert results == {"seen": {"rle" if rle else "bitmask": 2.0}}
    assert model.mask_format == "bitmask"


def test_results_of_several_sets_and_of_augmented_tests():
    sets = [
        TestSet("a", [[1]], Seen(True)),
        TestSet("a", [[1]], Seen(True), "_TTA", lambda model: Model("pasted")),
        TestSet("b", [[1]], Seen(False)),
    ]
    assert evaluate(config_of(*sets), Model(), final=True) == {
        "a": {"seen": {"rle": 1.0}, "seen_TTA": {"pasted": 1.0}},
        "b": {"seen": {"bitmask": 1.0}},
    }
    assert evaluate(config_of(), Model(), final=True) == {}


def test_who_takes_rle():
    ours, stock = COCOEvaluator.__new__(COCOEvaluator), StockEvaluator.__new__(StockEvaluator)
    assert takes_rle(ours)
    assert takes_rle([ours, ours])
    assert not takes_rle(stock)
    assert not takes_rle([ours, stock])
