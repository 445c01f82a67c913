"""What stops a training although no program is at fault: one line that says what to do, and no traceback."""

from __future__ import annotations

import errno
import logging
import pickle
import re

import pytest
import torch
from detectron2.engine import SimpleTrainer
from helpers.tiny_runs import TINY

from mrcnn_plugin.config import load_config
from mrcnn_plugin.errors import ConfigError, DatasetError, ImageError, first_line, storage_problem
from mrcnn_plugin.train import processes
from mrcnn_plugin.train.failures import explained, explanation


@pytest.fixture(scope="module")
def config():
    return load_config(str(TINY))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FloatingPointError("Loss became infinite or NaN at iteration=3!\nloss_dict = {}"),
            "diverged .*optimizer.lr",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "lower dataloader.train.total_batch_size"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory: lower",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "lower dataloader.train.num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "lower dataloader.train.num_workers",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is out of shared memory."
            ),
            "/dev/shm",
        ),
        (RuntimeError("unable to open shared memory object </torch_1>"), "/dev/shm"),
        (
            OSError(errno.ENOSPC, "No space left", "a.pth"),
            "a.pth: No space left on device; --resume continues",
        ),
        (ValueError("a bug"), None),
        (RuntimeError("Connection closed by peer"), None),
    ],
)
def test_explanations(config, error, message):
    text = explanation(error, config)
    if message is None:
        assert text is None
    else:
        assert text is not None
        assert re.search(message, text)
        assert "\n" not in text


def test_another_process_that_has_ended(config, monkeypatch):
    from detectron2.utils import comm

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    assert "another process of this run" in str(
        explanation(RuntimeError("Connection closed by peer"), config)
    )


def test_a_full_disk_is_seen_through_the_errors_that_follow_it():
    error = RuntimeError("on closing")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device", "x")
    assert storage_problem(error) == "x: No space left on device"
    assert storage_problem(OSError(errno.ECONNRESET, "reset")) is None
    assert storage_problem(None) is None


def test_the_trainers_traceback_is_logged_for_other_errors_alone(config, caplog):
    class Trainer(SimpleTrainer):
        def __init__(self, error):
            self._hooks, self.error = [], error

        def run_step(self):
            raise self.error

    with caplog.at_level(logging.ERROR):
        with pytest.raises(ConfigError, match="diverged"), explained(config):
            Trainer(FloatingPointError("NaN")).train(0, 1)
        assert not caplog.records
        with pytest.raises(ValueError, match="bug"), explained(config):
            Trainer(ValueError("bug")).train(0, 1)
    assert "Exception during training" in caplog.text


def test_run_prints_one_line(capsys, monkeypatch):
    def status(error: BaseException) -> tuple[int, str]:
        def main():
            raise error

        return processes.run(main, 1), capsys.readouterr().err

    assert status(OSError(errno.EROFS, "x", "out/a")) == (2, "error: out/a: Read-only file system\n")
    remote = "Caught DatasetError\nTraceback (most recent call last):\n  File\na.DatasetError: b: c"
    assert status(ConfigError(remote)) == (2, "error: b: c\n")
    with pytest.raises(OSError, match="reset"):
        status(OSError(errno.ECONNRESET, "reset"))
    monkeypatch.setenv("MRCNN_PLUGIN_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        status(ConfigError("x"))


def test_first_line():
    assert first_line(KeyError("a b")) == "a b"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("\n one\ntwo")) == "one"


@pytest.mark.parametrize(
    "error", [RuntimeError("DataLoader worker (pid 7) exited unexpectedly"), DatasetError("a.png: cut")]
)
def test_what_one_process_meets_is_printed_by_it_whatever_its_rank(config, error, monkeypatch, capsys):
    def main():
        with explained(config):
            raise error

    monkeypatch.setenv("RANK", "1")
    assert processes.run(main, 1) == 2
    lines = r"error: (a\.png: cut|a process that loads data has been killed.*)\n"
    assert re.fullmatch(lines, capsys.readouterr().err)


def test_what_all_processes_know_is_printed_once(monkeypatch, capsys):
    def main():
        raise ConfigError("wrong")

    monkeypatch.setenv("RANK", "1")
    assert processes.run(main, 1) == 2
    assert not capsys.readouterr().err


def test_an_error_that_quotes_a_file_is_cut():
    assert len(first_line(ValueError("invalid header: " + "[" * 100_000))) < 600


@pytest.mark.parametrize("kind", [ConfigError, DatasetError, ImageError])
def test_a_message_with_a_name_of_any_length_keeps_its_file_and_its_way_out(kind):
    error = kind(f"set.json: {'[' * 100_000} is no picture; replace it")
    assert len(str(error)) < 5000
    assert str(error).startswith("set.json: [")
    assert str(error).endswith("[ is no picture; replace it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert str(kind("a.png: cut")) == "a.png: cut"
