"""Training through the real main(): what a run leaves, and that it can be interrupted and resumed exactly."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer
from helpers.tiny_runs import TINY, assert_same, load, metrics_of, start, tiny_arguments

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.train import loop
from mrcnn_plugin.train.hooks import StopSignals
from mrcnn_plugin.train.trainer import Trainer


@pytest.fixture
def signal_at(monkeypatch):
    """Sends a signal to this process in the middle of an iteration."""

    def install(iteration: int, signum: int = signal.SIGINT) -> None:
        run_step = Trainer.run_step

        def interrupted(self):
            run_step(self)
            if self.iter == iteration:
                os.kill(os.getpid(), signum)

        monkeypatch.setattr(Trainer, "run_step", interrupted)

    return install


def test_run_folder(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {
        "config.yaml",
        "log.txt",
        "metrics.json",
        "model_final.pth",
        "last_checkpoint",
        "curves.png",
        "predictions.png",
        "results.json",
    }
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.startswith(".")], "a temporary file was left"
    assert (finished_run / "last_checkpoint").read_text() == "model_final.pth"
    assert load(finished_run / "model_final.pth")["trainer"]["iteration"] == 5
    for picture in ("curves.png", "predictions.png"):
        assert (finished_run / picture).read_bytes().startswith(b"\x89PNG")
    log = (finished_run / "log.txt").read_text()
    assert "eta: " in log
    assert f"Picture: {finished_run / 'predictions.png'}" in log


def test_metrics_and_results(finished_run):
    metrics = metrics_of(finished_run)
    assert [line["iteration"] for line in metrics if "total_loss" in line] == list(range(6))
    # The warm-up of the first half of 6 iterations: from 0.01 of the rate up to it at iteration 3.
    rates = [line["lr"] for line in metrics if "lr" in line]
    expected = [0.01 * (0.01 + 0.99 * i / 3) for i in range(3)] + [0.01] * 2 + [0.001]
    assert rates == pytest.approx(expected)
    results = json.loads((finished_run / "results.json").read_text())
    assert results["iteration"] == 6
    assert results["results"].keys() == {"bbox", "segm"}
    last = {key: value for line in metrics for key, value in line.items()}
    assert results["results"]["segm"]["AP"] == pytest.approx(last["segm/AP"])


def test_saved_config_is_the_one_that_ran(finished_run, shapes):
    saved = LazyConfig.load(str(finished_run / "config.yaml"))
    assert saved.dataloader.train.dataset.names == shapes["train"]
    assert saved.train.device in ("cpu", "cuda")
    keys = set(instantiate(saved.model).state_dict())
    assert keys == set(load(finished_run / "model_final.pth")["model"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_exact(train, finished_run, tmp_path, signal_at, monkeypatch, signum):
    signal_at(2, signum)
    assert train(tmp_path, "train.checkpointer.period=100") == 128 + signum
    monkeypatch.undo()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    # The uninterrupted run has the same seed, and saved after the same iteration.
    interrupted = load(tmp_path / "model_0000002.pth")
    assert_same(interrupted, load(finished_run / "model_0000002.pth"))
    assert interrupted["iteration"] == interrupted["trainer"]["iteration"] == 2

    seen = []
    run_step = Trainer.run_step

    def recorded(self):
        state = {k: v for k, v in self.state_dict().items() if k == "optimizer"}
        seen.append((self.iter, torch.utils._pytree.tree_map(_clone, state)))
        run_step(self)

    monkeypatch.setattr(Trainer, "run_step", recorded)
    assert train(tmp_path, "--resume", "train.checkpointer.period=100") == 0
    assert [iteration for iteration, _ in seen] == [3, 4, 5]
    # The momentum of the first resumed step is the saved one; the rate is the uninterrupted run's.
    first = seen[0][1]["optimizer"]
    assert_same(first["state"], interrupted["trainer"]["optimizer"]["state"])
    rates = {m["iteration"]: m["lr"] for m in metrics_of(finished_run) if "lr" in m}
    assert [state["optimizer"]["param_groups"][0]["lr"] for _, state in seen] == [rates[i] for i in (3, 4, 5)]
    assert {m["iteration"]: m["lr"] for m in metrics_of(tmp_path) if "lr" in m} == rates
    # Pictures, augmentations and RoIs of the resumed steps are the uninterrupted run's, and so is the end.
    assert_same(load(tmp_path / "model_final.pth"), load(finished_run / "model_final.pth"))


def _clone(leaf):
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def test_interrupted_evaluation_is_broken_off_and_saved(train, tmp_path, monkeypatch):
    def evaluation_of_hours(config, model, *, final):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(3600)

    monkeypatch.setattr(loop, "evaluate", evaluation_of_hours)
    assert train(tmp_path, "train.checkpointer.period=100", "train.eval_period=2") == 128 + signal.SIGINT
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert load(tmp_path / "model_0000001.pth")["trainer"]["iteration"] == 1


def test_resume_of_a_finished_run_evaluates(train, finished_run, tmp_path):
    for name in ("model_final.pth", "last_checkpoint"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    assert train(tmp_path, "--resume") == 0
    assert _results(tmp_path) == pytest.approx(_results(finished_run))


def _results(folder) -> dict:
    results = json.loads((folder / "results.json").read_text())["results"]
    return {f"{t}/{m}": v for t, metrics in results.items() for m, v in metrics.items() if v is not None}


def test_a_new_run_in_a_used_folder_has_its_own_metrics(train, tmp_path):
    for _ in range(2):
        assert train(tmp_path, "train.max_iter=1", "dataloader.evaluator=null") == 0
    assert [m["iteration"] for m in metrics_of(tmp_path) if "total_loss" in m] == [0]
    assert (tmp_path / "metrics.json.old").exists()


def test_eval_only(train, finished_run, tmp_path):
    weights = f"train.init_checkpoint={finished_run / 'model_final.pth'}"
    assert train(tmp_path, "--eval-only", weights) == 0
    assert _results(tmp_path) == pytest.approx(_results(finished_run))
    assert not (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--eval-only"], "--eval-only needs weights: give train.init_checkpoint=FILE"),
        (["train.init_checkpoint=/nowhere.pth"], "train.init_checkpoint: no weights at '/nowhere.pth'"),
        (["dataloader.train.total_batch_size=0"], "must be a positive multiple of the 1 processes, got 0"),
        (["optimizer.lrr=1"], "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
    ],
)
def test_bad_arguments(train, tmp_path, more, message):
    with pytest.raises(ConfigError) as error:
        train(tmp_path, *more)
    assert message in str(error.value)


def test_weights_of_another_model_are_refused_for_evaluation(train, finished_run, tmp_path):
    weights = f"train.init_checkpoint={finished_run / 'model_final.pth'}"
    with pytest.raises(ConfigError, match=r"do not fit the model: .* such as 'roi_heads.mask_head"):
        train(tmp_path, "--eval-only", weights, "model.roi_heads.mask_head.conv_dims=[8,8,8]")


def test_second_signal_exits_at_once():
    child = os.fork()
    if child == 0:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGINT


def test_ctrl_c_of_the_program(shapes, tmp_path, train):
    process = start("train_net.py", *tiny_arguments(shapes, tmp_path, "train.max_iter=100000"))
    metrics = tmp_path / "metrics.json"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors + output
    assert "Continue with --resume" in output
    iteration = load(tmp_path / (tmp_path / "last_checkpoint").read_text())["iteration"]
    assert train(tmp_path, "--resume", f"train.max_iter={iteration + 3}") == 0
    assert load(tmp_path / "model_final.pth")["iteration"] == iteration + 2


def test_config_runs_under_the_contract_of_detectron2s_own_tool(shapes, tmp_path):
    """Instantiates and runs what tools/lazyconfig_train_net.py of Detectron2 does with a LazyConfig."""
    from detectron2.engine import create_ddp_model, default_writers, hooks

    cfg = LazyConfig.load(str(TINY))
    overrides = tiny_arguments(shapes, tmp_path, "train.max_iter=2")[2:]
    cfg = LazyConfig.apply_overrides(cfg, [*overrides, "+train.device=cpu"])
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    trainer = SimpleTrainer(create_ddp_model(model, **cfg.train.ddp), loader, optimizer)
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period),
        ]
    )
    trainer.train(0, cfg.train.max_iter)
    assert [m["iteration"] for m in metrics_of(tmp_path) if "total_loss" in m] == [0, 1]
