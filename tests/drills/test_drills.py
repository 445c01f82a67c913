"""Faults in runs of the programs: a short form by default, all in `make drills` and `make test-all`."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from helpers.tiny_runs import ROOT, start
from PIL import Image

KILLS = int(os.environ.get("MRCNN_PLUGIN_KILLS", "0"))
mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which needs root")


def found(monkeypatch, script: str, *arguments: object) -> dict:
    monkeypatch.setenv("MRCNN_PLUGIN_TRACEBACK", "0")
    paths = [ROOT / "tests", ROOT / "benchmarks"]
    process = start("-m", f"drills.{script}", *map(str, arguments), paths=paths)
    output, errors = process.communicate(timeout=3600)
    assert process.returncode == 0, errors
    # For `pytest -rP`.
    print(output.splitlines()[-1])
    return json.loads(output.splitlines()[-1])


def assert_exact(result: dict, kills: int) -> None:
    assert result["kills"] <= kills
    assert not result["problems"]
    assert (result["end"], result["twice"], result["left"], result["equal"]) == (0, 0, [], True), result
    # The line of the very iteration whose checkpoint was being written may not have been written yet.
    assert result["missing"] <= result["kills"], result


def test_runs_killed_at_random_moments_end_as_the_unbroken_one(tmp_path, monkeypatch):
    assert_exact(found(monkeypatch, "killed_runs", tmp_path, KILLS or 3, 1), KILLS or 3)


@pytest.mark.slow
def test_the_same_with_processes_that_load_data(tmp_path, monkeypatch):
    assert_exact(found(monkeypatch, "killed_runs", tmp_path, KILLS or 4, 2, 2), KILLS or 4)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "count"), [("train", 3000), ("predict", 5000)])
def test_memory_does_not_grow_beyond_the_first_tenth(tmp_path, monkeypatch, what, count):
    """By more than a hundredth of what is held; the plots are in the folder that pytest names."""
    figures = found(monkeypatch, "memory_growth", tmp_path, what, count, tmp_path / "memory.png")
    assert figures["calls"] == count
    assert figures["growth"] < 0.01 * figures["MB after a tenth"], figures
    plot = np.asarray(Image.open(tmp_path / "memory.png").convert("RGB"), int)
    curve = abs(plot - (31, 119, 180)).max(axis=2) < 40
    assert curve.sum() > 200


ENDS = {
    "second_run_in_a_folder": "is running in ",
    "file_size_limit": "File too large",
    "worker_process_killed": "a process that loads data has been killed",
    "files_replaced_under_a_running_loader": "the file is empty; nor could",
    "full_disk_at_a_checkpoint": r".pth: No space left on device; --resume continues",
    "full_disk_at_the_metrics": "No space left on device; --resume continues",
    "full_disk_at_the_predictions": "No space left on device",
    "full_disk_at_the_results": "No space left on device; --resume goes on from here",
    "full_disk_at_drawn_data": "cannot be drawn ([Errno 28] No space left on device",
    "read_only_folder": "cannot write in ",
}
_MOUNTING = ("full_disk", "read_only")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(name, message, marks=[mounts] if name.startswith(_MOUNTING) else [])
        for name, message in ENDS.items()
    ],
)
def test_a_fault_is_one_line_and_the_run_goes_on_from_there(tmp_path, monkeypatch, name, message):
    row = found(monkeypatch, "faults", tmp_path, name)[name]
    assert row["status"] == 2, row
    assert len(row["errors"]) == 1, row
    assert message in row["errors"][0]
    assert not row["traceback"], row
    assert all(
        value is True for key, value in row.items() if key.startswith(("resumes", "first_", "went_on"))
    ), row


@pytest.mark.slow
def test_a_truncated_last_checkpoint(tmp_path, monkeypatch):
    row = found(monkeypatch, "faults", tmp_path, "truncated_last_checkpoint")["truncated_last_checkpoint"]
    assert row == {"status": 0, "errors": [], "traceback": False, "said": True, "whole_again": True}


@pytest.mark.slow
def test_sigterm_during_an_evaluation(tmp_path, monkeypatch):
    row = found(monkeypatch, "faults", tmp_path, "sigterm_during_evaluation")["sigterm_during_evaluation"]
    assert row == {"status": 143, "errors": [], "traceback": False, "resumes": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rank_0_killed_under_torchrun", "another process of this run has ended"),
        ("rank_1_killed_under_torchrun", "another process of this run has ended"),
        ("process_killed_of_two_that_were_spawned", "a process of this run has ended"),
    ],
)
def test_a_process_that_is_killed_ends_the_others_within_a_minute(tmp_path, monkeypatch, name, message):
    row = found(monkeypatch, "faults", tmp_path, name)[name]
    assert row["status"] == 1, row
    assert row["seconds"] < 60, row
    assert row["left"] == 0, row
    assert len(row["errors"]) == 1, row
    assert message in row["errors"][0]
    assert row["resumes"], row


@pytest.mark.slow
def test_a_clock_that_jumps(tmp_path, monkeypatch):
    row = found(monkeypatch, "faults", tmp_path, "a_clock_that_jumps")["a_clock_that_jumps"]
    assert row.pop("dates") > 2
    assert row == {"status": 0, "errors": [], "traceback": False, "twice": 0, "equal": True}
