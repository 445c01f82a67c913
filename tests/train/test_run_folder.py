"""A run folder has one run at a time; what a killed one left does not get in the way."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.train.run_folder import cut_metrics, open_folder


@pytest.fixture
def other_run(tmp_path):
    """Another process that has opened the folder tmp_path, with a child, as a loader's worker is."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        open_folder(str(tmp_path), "train.output_dir")
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os.write(write, b"!")
        time.sleep(60)
        os._exit(1)
    os.read(read, 1)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path, other_run):
    message = rf"train.output_dir: process {other_run} of \S+ is running in '.*'; give another folder"
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            open_folder(str(tmp_path), "train.output_dir")
    os.kill(other_run, signal.SIGKILL)
    # Its zombie and its child are still there.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            open_folder(str(tmp_path), "train.output_dir")
            break
        except ConfigError:
            time.sleep(0.01)
    open_folder(str(tmp_path), "train.output_dir")


def test_a_run_may_open_its_folder_twice_and_removes_what_was_half_written(tmp_path):
    for name in (".123.model_final.pth", "results.json.77.part", ".hidden", "model_final.pth", "a.part"):
        (tmp_path / name).touch()
    for _ in range(2):
        open_folder(str(tmp_path), "key")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".hidden", "model_final.pth", "a.part", "run.lock"}


@pytest.mark.parametrize("folder", ["/proc/nowhere", "FILE", "FILE/below", "x" * 300])
def test_a_folder_that_cannot_be_written(tmp_path, folder):
    (tmp_path / "file").touch()
    folder = folder.replace("FILE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR: cannot write in '.*'") as error:
        open_folder(folder, "OUTPUT_DIR")
    assert "\n" not in str(error.value)


def test_lines_of_iterations_that_are_run_again_are_cut_off(tmp_path):
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in range(6)]
    lines.insert(3, json.dumps({"iteration": 3, "bbox/AP": 4.0}))
    path = tmp_path / "metrics.json"

    def cut(start: int, text: str = "\n".join([*lines, ""])) -> list[str]:
        path.write_text(text)
        cut_metrics(str(tmp_path), start)
        return path.read_text().splitlines()

    assert cut(7) == lines
    # The evaluation after iteration 2 was written as of 3.
    assert cut(3) == lines[:4]
    assert cut(2) == lines[:2]
    assert cut(0) == []
    assert cut(9, lines[0] + "\n" + lines[1][:9]) == lines[:1]
    assert cut(9, "[]\n") == []
    path.unlink()
    cut_metrics(str(tmp_path), 2)
    assert not path.exists()
