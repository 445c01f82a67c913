"""The keys of the training loop through the real main(): what each leaves, and that all resume exactly."""

from __future__ import annotations

import logging
import os
import shutil
import signal

import pytest
import torch
from helpers.tiny_runs import assert_same, load, metrics_of, tiny_arguments, train_in_process

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.train import argument_parser, loop, main, run
from mrcnn_plugin.train.trainer import Trainer

KEYS = [
    "train.best_checkpoint.metric=validation/total_loss",
    "train.early_stopping.metric=validation/total_loss",
    "train.early_stopping.patience=9",
    "train.ema.decay=0.75",
    "train.validation_loss=True",
    "train.accumulate=2",
    "train.checkpointer.period=2",
    "train.eval_period=2",
    "dataloader.train.mapper._target_=mrcnn_plugin.data.CopyPasteMapper",
    "dataloader.train.mapper.dataset=${..dataset}",
    "dataloader.train.mapper.copy_paste=0.5",
    "dataloader.train.sampler={_target_: mrcnn_plugin.data.repeat_factor_sampler, dataset: '${..dataset}', "
    "repeat_thresh: 0.9}",
    # The rate is high enough from the start for weights to move visibly.
    "lr_multiplier.warmup_factor=1.0",
]


@pytest.fixture(scope="module")
def full_run(shapes, tmp_path_factory):
    """The folder of an unbroken run with every key."""
    folder = tmp_path_factory.mktemp("full")
    assert train_in_process(tiny_arguments(shapes, folder, *KEYS)) == 0
    return folder


def scalars(folder, name):
    return {line["iteration"]: line[name] for line in metrics_of(folder) if name in line}


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_interrupted_and_resumed_equals_the_unbroken_run(full_run, train, tmp_path, monkeypatch, where):
    """In the middle of the steps, and in the middle of the evaluation that follows the fourth one."""
    run_step, evaluate, calls = Trainer.run_step, loop.evaluate, []

    def interrupted_step(self):
        run_step(self)
        if self.iter == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted_evaluation(*args, **kwargs):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*args, **kwargs)

    if where == "step":
        monkeypatch.setattr(Trainer, "run_step", interrupted_step)
    else:
        monkeypatch.setattr(loop, "evaluate", interrupted_evaluation)
    assert train(tmp_path, *KEYS) == 128 + signal.SIGINT
    monkeypatch.undo()
    assert (tmp_path / "last_checkpoint").read_text() == (
        "model_0000002.pth" if where == "step" else "model_0000003.pth"
    )
    assert train(tmp_path, "--resume", *KEYS) == 0
    for name in ("model_final", "model_best", "model_ema"):
        assert_same(load(tmp_path / f"{name}.pth"), load(full_run / f"{name}.pth"), name)
    for name in ("validation/total_loss", "validation/loss_mask", "lr"):
        assert scalars(tmp_path, name) == scalars(full_run, name)


def test_the_best_checkpoint_holds_the_weights_of_the_best_evaluation(full_run):
    losses = scalars(full_run, "validation/total_loss")
    # The evaluation after training is of the iteration that would come next.
    assert sorted(losses) == [1, 3, 6]
    best = min(losses, key=losses.get)
    file = {1: "model_0000001.pth", 3: "model_0000003.pth", 6: "model_final.pth"}[best]
    saved = load(full_run / "model_best.pth")
    assert saved["iteration"] == best
    assert_same(saved["model"], load(full_run / file)["model"])
    assert saved.keys() == {"model", "iteration"}
    assert (full_run / "last_checkpoint").read_text() == "model_final.pth"


def test_the_average_by_hand(shapes, tmp_path):
    keys = ["train.ema.decay=0.75", "train.checkpointer.period=1", "train.max_iter=3", "train.trackers=[]"]
    assert train_in_process(tiny_arguments(shapes, tmp_path, *keys, "dataloader.evaluator=null")) == 0
    steps = [load(tmp_path / f"model_000000{i}.pth") for i in range(3)]
    name = "roi_heads.mask_head.predictor.weight"
    # e_0 is in the first average: e_1 = 0.75 e_0 + 0.25 w_1.
    average = steps[0]["ema"][f"module.{name}"]
    for step in steps[1:]:
        average = 0.75 * average + 0.25 * step["model"][name]
        torch.testing.assert_close(step["ema"][f"module.{name}"], average, rtol=1e-6, atol=1e-7)
    saved = load(tmp_path / "model_ema.pth")
    assert_same(saved["model"][name], steps[-1]["ema"][f"module.{name}"])
    assert saved["model"].keys() == steps[-1]["model"].keys()
    assert not torch.equal(saved["model"][name], steps[-1]["model"][name])
    assert not list(tmp_path.glob("events.out.tfevents*")), "no tracker was requested"


def test_averages_are_evaluated_beside_the_weights(full_run):
    names = {name for line in metrics_of(full_run) for name in line}
    assert {"bbox/AP", "segm/AP", "bbox_EMA/AP", "segm_EMA/AP"} <= names


def test_early_end_leaves_a_finished_run(train, tmp_path, monkeypatch):
    script = iter([30.0, 20.0, 10.0])
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: {"segm": {"AP": next(script)}})
    keys = ["train.early_stopping.metric=segm/AP", "train.early_stopping.patience=1", "train.eval_period=1"]
    assert train(tmp_path, *keys) == 0
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    final = load(tmp_path / "model_final.pth")
    assert final["iteration"] == final["trainer"]["iteration"] == 1
    assert "Stopped after iteration 1: segm/AP has not improved" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "predictions.png").exists()
    # Resumed, it has nothing to do but to evaluate.
    assert train(tmp_path, "--resume", *keys) == 0
    assert load(tmp_path / "model_final.pth")["iteration"] == 1
    assert next(script, None) is None


def test_a_run_without_a_seed_gets_one_that_resume_finds(train, tmp_path):
    keys = ["train.seed=-1", "train.max_iter=2", "dataloader.evaluator=null"]
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        assert train(folder, *keys) == 0
    first, second = (load(folder / "model_final.pth")["model"] for folder in folders)
    assert any(not torch.equal(first[name], second[name]) for name in first), "the seeds differ"
    saved = (folders[0] / "config.yaml").read_text()
    assert train(folders[0], "--resume", *keys) == 0
    assert (folders[0] / "config.yaml").read_text() == saved
    assert "a config that has changed" not in (folders[0] / "log.txt").read_text()


def test_a_diverging_run_ends_with_what_was_seen(shapes, tmp_path, capsys, monkeypatch):
    # Loggers of former tests in this process may hold streams that are closed, and would say so.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    keys = ["optimizer.lr=1e30", "train.checkpointer.period=1", "dataloader.evaluator=null"]
    arguments = argument_parser().parse_intermixed_args(tiny_arguments(shapes, tmp_path, *keys))
    assert run(main, 1, 1, 0, "auto", (arguments,)) == 1
    error = capsys.readouterr().err
    lines = error[error.index("error: ") :].splitlines()
    assert lines[0].startswith("error: a loss is not finite at iteration 1, whose step was not taken")
    # Which of the two comes first is a matter of rounding.
    assert "Predicted boxes or scores contain Inf/NaN" in lines[1] or "= nan" in lines[1]
    assert lines[2].count(".png") + lines[2].count(".jpg") == 2
    assert "checkpoint" in lines[3]
    assert len(lines) == 5
    assert "Traceback" not in error + (tmp_path / "log.txt").read_text()


def without_inductor(monkeypatch):
    """Lets what is compiled be traced, and run by PyTorch itself: inductor takes a minute."""
    compile_module = torch.nn.Module.compile
    traced = []

    def traced_alone(self, **options):
        traced.append(self)
        compile_module(self, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced_alone)
    return traced


@pytest.mark.slow
def test_a_compiled_run_trains_as_the_run_without(train, tmp_path, monkeypatch):
    """Its losses, and its end after an interruption and --resume to the bit."""
    traced = without_inductor(monkeypatch)
    keys = ["dataloader.evaluator=null", "train.checkpointer.period=1", "train.max_iter=2"]
    assert train(tmp_path / "plain", *keys) == 0
    assert not traced
    assert train(tmp_path / "whole", *keys, "train.compile=True") == 0
    losses = [scalars(tmp_path / folder, "total_loss") for folder in ("plain", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "model_final.pth").unlink()
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000000.pth")
    assert train(tmp_path / "resumed", *keys, "train.compile=True", "--resume") == 0
    # Backbone, RPN head and box head of two models.
    assert len(traced) == 2 * 3
    first, second = (load(tmp_path / folder / "model_final.pth") for folder in ("whole", "resumed"))
    assert_same(first["model"], second["model"])
    assert not any("_orig_mod" in name for name in first["model"])


def test_a_model_that_cannot_be_compiled_is_one_line(train, tmp_path, monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    def failing(self):
        cause = RuntimeError("no g++\nmore")
        raise BackendCompilerFailed(lambda: None, cause, None)

    monkeypatch.setattr(Trainer, "run_step", failing)
    without_inductor(monkeypatch)
    expected = r"^the model cannot be compiled \(no g\+\+\): set train.compile=False$"
    with pytest.raises(ConfigError, match=expected):
        train(tmp_path, "dataloader.evaluator=null", "train.compile=True")
    replaced = "train.compile takes the place of the fused convolutions"
    assert replaced in (tmp_path / "log.txt").read_text()


def test_a_metric_that_is_not_evaluated_is_named(train, tmp_path):
    with pytest.raises(ConfigError, match=r"no metric 'segm/mAP' in the evaluation, which has .*segm/AP"):
        train(tmp_path, "train.best_checkpoint.metric=segm/mAP", "train.eval_period=1")
    assert load(tmp_path / "model_0000000.pth")["iteration"] == 0
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["train.best_checkpoint.metric=validation/total_loss"], "needs train.validation_loss=True"),
        (["train.best_checkpoint.metric=segm_EMA/AP"], "needs train.ema.decay, such as 0.999"),
        (["train.early_stopping.metric=segm/AP"], "set the evaluation period"),
        (["train.validation_loss=True", "dataloader.test.dataset.names=[]"], "needs a test set"),
    ],
)
def test_keys_that_miss_another_are_refused_before_training(train, tmp_path, keys, message):
    with pytest.raises(ConfigError) as error:
        train(tmp_path, *keys)
    assert message in str(error.value)
    assert not tmp_path.joinpath("model_final.pth").exists()
