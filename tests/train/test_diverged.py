"""What a run that diverges says, and which checkpoint it points to."""

from __future__ import annotations

import math

import torch
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer
from mrcnn_plugin.train.diverged import explain, last_finite_checkpoint
from mrcnn_plugin.train.trainer import NonFiniteLoss


def checkpointer_of(folder, *weights):
    """Checkpoints of these weights in succession."""
    model = nn.Linear(1, 1)
    checkpointer = DetectionCheckpointer(model, str(folder))
    for iteration, weight in enumerate(weights):
        nn.init.constant_(model.weight, weight)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return checkpointer


def test_the_newest_checkpoint_with_finite_weights(tmp_path):
    checkpointer = checkpointer_of(tmp_path, 1.0, 2.0, math.nan)
    checkpointer.save_weights("model_best", nn.Linear(1, 1))
    assert last_finite_checkpoint(checkpointer) == str(tmp_path / "model_0000001.pth")
    torch.save({"model": {}}, tmp_path / "unrelated.pth")
    (tmp_path / "model_0000001.pth").write_bytes(b"cut off")
    assert last_finite_checkpoint(checkpointer) == str(tmp_path / "model_0000000.pth")


def test_no_checkpoint(tmp_path):
    assert last_finite_checkpoint(checkpointer_of(tmp_path)) is None
    assert last_finite_checkpoint(checkpointer_of(tmp_path, math.inf)) is None


def test_the_message(tmp_path):
    checkpointer = checkpointer_of(tmp_path, 1.0)
    losses = {"loss_a": 0.25, "loss_b": math.nan}
    error = explain(NonFiniteLoss(12, {1: ["a.jpg", "b.jpg"]}, losses), checkpointer, "MODEL.WEIGHTS")
    good = tmp_path / "model_0000000.pth"
    assert str(error).splitlines() == [
        "a loss is not finite at iteration 12, whose step was not taken",
        "  losses: loss_b = nan, loss_a = 0.25",
        "  files: a.jpg, b.jpg (process 1)",
        f"  last good checkpoint: {good}",
        "  look at these files, lower the learning rate, and start from it: " + f"MODEL.WEIGHTS={good}",
    ]
    assert not error.of_one_process


def test_many_files_are_cut_short(tmp_path):
    stop = NonFiniteLoss(0, {0: [f"{i}.jpg" for i in range(20)]}, why="Predicted boxes contain NaN")
    error = explain(stop, checkpointer_of(tmp_path), "train.init_checkpoint")
    lines = str(error).splitlines()
    assert lines[1] == "  Predicted boxes contain NaN"
    assert lines[2].endswith("15.jpg and 4 more")
    assert "no checkpoint with finite weights" in lines[3]
    assert error.of_one_process
