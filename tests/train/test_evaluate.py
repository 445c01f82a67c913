"""Evaluation: which masks the model is asked for, and how results of several sets are put together."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from detectron2.evaluation import COCOEvaluator as StockEvaluator
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.proposal_generator import StandardRPNHead
from torch import nn

from mrcnn_plugin.config import TestSet, load_config
from mrcnn_plugin.errors import ConfigError
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


def config_of(*sets, optimized=True, precision="float32", compiled=False):
    return SimpleNamespace(
        test_sets=lambda final: iter(sets),
        optimized_evaluation=optimized,
        evaluation_precision=precision,
        compiled_evaluation=compiled,
    )


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
        "a": {"seen": {"rle": 1.0}, "seen_TTA": {"rle": 1.0}},
        "b": {"seen": {"bitmask": 1.0}},
    }
    assert evaluate(config_of(), Model(), final=True) == {}


def test_who_takes_rle():
    ours, stock = COCOEvaluator.__new__(COCOEvaluator), StockEvaluator.__new__(StockEvaluator)
    assert takes_rle(ours)
    assert takes_rle([ours, ours])
    assert not takes_rle(stock)
    assert not takes_rle([ours, stock])


class Kind(DatasetEvaluator):
    """Its result is whether a RPN head of Detectron2's own class ran."""

    def reset(self):
        self.own = []

    def process(self, inputs, outputs):
        self.own += outputs

    def evaluate(self):
        return {"kind": {"own": float(all(self.own))}}


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = StandardRPNHead(in_channels=16, num_anchors=1, conv_dims=(-1,))

    def forward(self, inputs):
        return [type(self.head) is StandardRPNHead for _ in inputs]


@pytest.mark.parametrize("optimized", [True, False])
def test_an_optimized_copy_is_evaluated_unless_refused(optimized):
    model = Detector().train()
    config = config_of(TestSet("a", [[1]], Kind()), optimized=optimized)
    assert evaluate(config, model, final=False) == {"kind": {"own": float(not optimized)}}
    assert model.training
    assert type(model.head) is StandardRPNHead


def test_precision_and_compilation_are_those_of_the_config(monkeypatch):
    seen = []
    optimize = lambda model, precision, compiled: seen.append((precision, compiled)) or model  # noqa: E731
    monkeypatch.setattr(sys.modules[evaluate.__module__], "optimize_for_device", optimize)
    evaluate(config_of(precision="auto", compiled=True), Detector(), final=False)
    assert seen == [("auto", True)]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.evaluation_precision=half", "must be one of 'auto', 'float32', 'bfloat16', got 'half'"),
        ("train.evaluation_precision=bfloat16 train.optimized_evaluation=False", "of the optimized copy"),
        ("train.compiled_evaluation=True train.optimized_evaluation=False", "of the optimized copy"),
        ("train.compiled_evaluation=1", "train.compiled_evaluation must be true or false, got 1"),
        ("train.compile=maybe", "train.compile must be true or false, got 'maybe'"),
    ],
)
def test_bad_keys_are_refused_before_a_run(train, tmp_path, key, message):
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", *key.split())
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "line"),
    [("LazyConfig", "train.optimized_evaluation=False"), ("YAML", "TEST.OPTIMIZED=False")],
)
def test_the_switch_is_a_key_of_both_kinds_of_config(kind, line, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("VERSION: 2\n")
    name = "Shapes/mask_rcnn_R_18_FPN.py" if kind == "LazyConfig" else str(file)
    assert load_config(name, []).optimized_evaluation
    assert not load_config(name, [line]).optimized_evaluation
    plain = load_config(name, [])
    assert (plain.evaluation_precision, plain.compiled_evaluation, plain.compile) == ("float32", False, False)
    keys = {
        "LazyConfig": ["evaluation_precision=auto", "compiled_evaluation=True", "compile=True"],
        "YAML": ["TEST.PRECISION=auto", "TEST.COMPILED=True", "TRAIN.COMPILE=True"],
    }[kind]
    given = load_config(name, [f"train.{key}" if kind == "LazyConfig" else key for key in keys])
    assert (given.evaluation_precision, given.compiled_evaluation, given.compile) == ("auto", True, True)
