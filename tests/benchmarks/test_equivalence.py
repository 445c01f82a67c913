"""benchmarks/equivalence.py: its table from made-up runs, and both models on one batch."""

import argparse
import json
from pathlib import Path

import equivalence
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils.events import EventStorage
from helpers.training import synthetic_inputs
from model_zoo import detectron2_model

from mrcnn_plugin import model_zoo
from mrcnn_plugin.modeling import MaskRCNN


def run(folder, losses, box, float64=({"a": 1.0},), nudged=({"a": 1.0},)):
    variants = {"": losses, "-float64": float64, "-nudged": nudged}
    for suffix, values in variants.items():
        beside = folder.with_name(folder.name + suffix)
        beside.mkdir(parents=True)
        (beside / equivalence.LOSSES).write_text(json.dumps(values))
    (folder / "results.json").write_text(json.dumps({"results": {"bbox": {"AP": box}}}))
    return folder


def test_report_by_hand(tmp_path):
    late = [{"a": 1.0, "b": 0.5}] * equivalence.FIRST
    runs = {
        # They part after the iterations that are compared.
        ("shapes", "plugin", 0): run(tmp_path / "p0", [*late, {"a": 2.0, "b": 0.5}], 50.5),
        ("shapes", "detectron2", 0): run(
            tmp_path / "d0",
            [*late, {"a": 1.0, "b": 0.5}],
            50.0,
            nudged=[{"a": 1.5, "b": 0.5}] * equivalence.FIRST,
        ),
        ("shapes", "plugin", 1): run(tmp_path / "p1", [{"a": 1.0, "b": 0.25}], 51.5, float64=[{"a": 0.875}]),
        ("shapes", "detectron2", 1): run(
            tmp_path / "d1", [{"a": 1.0, "b": 0.5}], 53.0, nudged=[{"a": 1.0, "b": 0.5}]
        ),
        ("nuclei", "plugin", 0): run(tmp_path / "alone", [{"a": 1.0}], 1.0),
    }
    text = equivalence.report(runs, tmp_path)
    assert text == (tmp_path / "equivalence.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:4]]
    assert rows == [
        ["shapes", "0", "0.0e+00", "0.0e+00", "5.0e-01", "box", "50.0", "50.5", "+0.5"],
        ["shapes", "1", "1.2e-01", "2.5e-01", "0.0e+00", "box", "53.0", "51.5", "-1.5"],
    ]
    assert "shapes, box: -0.5 AP on average; Detectron2's seeds are 3.0 AP apart." in text


def test_runs_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        equivalence.differences([{"a": 1.0}], [])


def test_command_gives_both_the_same_overrides():
    args = argparse.Namespace(iterations=7, overrides=["x=1"], nuclei=Path("/set"))
    ours, theirs = (
        equivalence.command("nuclei", model, 3, Path("/run"), args) for model in equivalence.MODELS
    )
    assert [a for a, b in zip(ours, theirs, strict=True) if a != b] == ["detectron2"]
    assert {"train.seed=3", "train.max_iter=7", "train.amp.enabled=False", "x=1"} <= set(ours)
    assert "dataloader.test.dataset.names=coco:/set/val.json:/set/images" in ours


def test_a_variant_is_named_in_the_command():
    args = argparse.Namespace(iterations=7, overrides=[], nuclei=Path("/set"))
    plain, exact = (
        equivalence.command("shapes", "plugin", 3, Path("/run"), args, variant)
        for variant in ("", equivalence.FLOAT64)
    )
    assert [b for a, b in zip(plain, exact, strict=True) if a != b] == [equivalence.FLOAT64]


def test_nudged_weights_differ_in_the_last_bit():
    model = torch.nn.Linear(40, 30)
    before = model.weight.detach().clone()
    equivalence.nudge(model, 0)
    moved = (model.weight - before).abs()
    assert 0.5 < (moved > 0).float().mean() < 0.8
    assert (moved <= before.abs() * torch.finfo(torch.float32).eps).all()


def test_both_models_have_the_same_losses_from_the_same_weights():
    config = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py").model
    torch.manual_seed(0)
    ours, theirs = instantiate(config).train(), instantiate(detectron2_model(config)).train()
    assert type(ours) is MaskRCNN
    assert type(theirs) is GeneralizedRCNN
    theirs.load_state_dict(ours.state_dict())
    losses = []
    for model in (theirs, ours):
        torch.manual_seed(1)
        with EventStorage():
            losses.append(
                {k: v.item() for k, v in model(synthetic_inputs([(96, 96), (80, 96)], num_classes=4)).items()}
            )
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
