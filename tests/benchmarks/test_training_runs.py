"""benchmarks/training_runs.py: what it trains when it is started again, and its averages."""

import json
import math
import signal
import sys

import pytest
import training_runs
from training_runs import Settings, run_all

BASE, OTHER = "Ablations/base.py", "Ablations/other.py"


def finish(folder, **tasks):
    """What a finished run leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {task: dict(zip(("AP", "AP50", "AP75"), values)) for task, values in tasks.items()}
    (folder / "results.json").write_text(json.dumps({"iteration": 5, "results": results}))


class Trainer:
    """Finishes runs with an AP of 40, or stops at one of them."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def __call__(self, config, folder, settings, seed):
        self.calls.append((config, seed))
        if (config, seed) == self.stop_at:
            return 130
        finish(folder, segm=(40.0, 60.0, 45.0), bbox=(50.0, 70.0, 55.0))
        return 0


def test_goes_on_where_it_was_stopped(tmp_path):
    reports = []
    stopped = Trainer(stop_at=(OTHER, 0))
    assert run_all([BASE, OTHER], 2, Settings(5), tmp_path, lambda r: reports.append(len(r)), stopped) == 130
    assert stopped.calls == [(BASE, 0), (OTHER, 0)]
    again = Trainer()
    assert run_all([BASE, OTHER], 2, Settings(5), tmp_path, lambda r: reports.append(len(r)), again) == 0
    assert again.calls == [(OTHER, 0), (BASE, 1), (OTHER, 1)]
    assert reports == [0, 1, 1, 2, 3, 4]
    # A shared base is not trained twice; runs of another length do not count.
    shared = Trainer()
    assert run_all([BASE, "Ablations/third.py"], 1, Settings(5), tmp_path, lambda r: None, shared) == 0
    assert shared.calls == [("Ablations/third.py", 0)]
    longer = Trainer()
    assert run_all([BASE, OTHER], 1, Settings(6), tmp_path, lambda r: None, longer) == 0
    assert longer.calls == [(BASE, 0), (OTHER, 0)]
    other = Trainer()
    assert run_all([BASE, OTHER], 1, Settings(5, ("a.b=1",)), tmp_path, lambda r: None, other) == 0
    assert other.calls == [(BASE, 0), (OTHER, 0)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_the_run_may_save(signum, tmp_path):
    """The run sends the signal to this process, which hands it on and waits for the run to end."""
    saved = tmp_path / "saved"
    program = f"""
import os, pathlib, signal, sys, time
def save(signum, frame):
    time.sleep(0.6)
    pathlib.Path({str(saved)!r}).touch()
    sys.exit(128 + signum)
signal.signal({int(signum)}, save)
os.kill(os.getppid(), {int(signum)})
time.sleep(60)
"""
    former = signal.getsignal(signum)
    assert training_runs.run_to_its_end([sys.executable, "-c", program]) == 128 + signum
    assert saved.exists()
    assert signal.getsignal(signum) == former


def test_a_run_that_leaves_no_results_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.json: the run ended without writing it"):
        run_all([BASE, OTHER], 1, Settings(5), tmp_path, lambda r: None, lambda *arguments: 0)


def test_averages_by_hand():
    # Standard deviation of 40 and 42: sqrt(2).
    assert training_runs.cell([40.0, 42.0]) == "41.0 ± 1.4"
    assert training_runs.cell([-4.0], sign="+") == "-4.0"
    assert training_runs.cell([4.0, 4.0], sign="+") == "+4.0 ± 0.0"
    assert training_runs.cell([40.0, math.nan]) == "–"
    assert training_runs.cell([]) == ""


def test_differences_are_those_of_the_same_seed():
    runs = {
        (BASE, 0): {"segm": {"AP": 40.0}},
        (BASE, 1): {"segm": {"AP": 42.0}},
        (BASE, 2): {"segm": {"AP": math.nan}},
        (OTHER, 3): {"segm": {"AP": 90.0}},
        (OTHER, 2): {"segm": {"AP": 90.0}},
        (OTHER, 1): {"segm": {"AP": 41.0}},
        (OTHER, 0): {"segm": {"AP": 43.0}},
    }
    assert training_runs.paired_differences(runs, OTHER, BASE, "segm", "AP") == [3.0, -1.0]
    assert training_runs.paired_differences(runs, OTHER, BASE, "bbox", "AP") == []
    assert training_runs.paired_differences(runs, OTHER, BASE, "segm", "AP75") == []


def test_results_of_a_finished_run(tmp_path):
    assert training_runs.read_run(tmp_path) is None
    results = {"segm": {"AP": 40.0, "APl": None}, "else": {"AP": 1.0}}
    (tmp_path / "results.json").write_text(json.dumps({"iteration": 5, "results": results}))
    ((task, values),) = training_runs.read_run(tmp_path).items()
    assert (task, values["AP"]) == ("segm", 40.0)
    assert math.isnan(values["APl"])


def test_folders_of_different_settings_differ(tmp_path):
    folder = Settings(5, ("a.b=c/d",)).folder(tmp_path, "Ablations/base.py", 1)
    assert folder == tmp_path / "base-5-a.b_c_d" / "seed1"


def test_a_wrong_command_line_is_refused(capsys):
    for arguments in (["--only", "nothing"], ["--seeds", "0"], ["--iterations", "many"], ["key"]):
        with pytest.raises(SystemExit):
            training_runs.parse_arguments("", ["name"], 5, "output", arguments)
        assert "error" in capsys.readouterr().err
    args = training_runs.parse_arguments("", ["name"], 5, "output", ["a.b=1", "--seeds", "3"])
    assert (args.only, args.seeds, args.settings) == (["name"], 3, Settings(5, ("a.b=1",)))
