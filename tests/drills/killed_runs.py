"""Kills a run with SIGKILL at random moments and resumes it, until it is done; prints what it found as JSON.

killed_runs.py FOLDER KILLS SEED [WORKERS]
"""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from drills.forked import Run, shapes
from helpers.tiny_runs import metrics_of, tiny_arguments

_RESUMED = re.compile(r"Starting training from iteration (\d+)")
# Iterations for each kill.
_ITERATIONS = 6
# The part of the kills that may come at any moment since the start of a process, which mostly is before its
# first step; the others come between two checkpoints, or in the midst of one.
_ANY_MOMENT = 0.3


def same(first: object, second: object) -> bool:
    """Equality to the bit, through nested containers of tensors."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        keys = isinstance(second, dict) and first.keys() == second.keys()
        return keys and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def iteration_of(folder: Path) -> int:
    """That of the last checkpoint; -1 where there is none."""
    try:
        return int(re.sub(r"\D", "", (folder / "last_checkpoint").read_text()) or -1)
    except OSError:
        return -1


def kill(run: Run, folder: Path, moment: random.Random, span: float, iteration: float) -> str:
    """Kills a run at a random moment; where that was.

    Args:
        span: seconds in which a run comes to its first step.
        iteration: seconds of one, its checkpoint included.
    """
    before = iteration_of(folder)
    if moment.random() < _ANY_MOMENT:
        time.sleep(moment.uniform(0, span))
    else:
        after = moment.randrange(1, _ITERATIONS)
        run.until(lambda: not run.alive() or iteration_of(folder) >= before + after)
        time.sleep(moment.uniform(0, 2 * iteration))
    run.kill(signal.SIGKILL)
    if any(path.name.startswith(".") or path.suffix == ".part" for path in folder.glob("*")):
        return "while a file was written"
    return "in a step" if iteration_of(folder) > before else "before the first checkpoint"


def drill(folder: Path, kills: int, seed: int, workers: int = 0) -> dict:
    """An unbroken run, and one that is killed so often: what differs between them."""
    moment = random.Random(seed)
    iterations = _ITERATIONS * kills
    common = [
        f"train.max_iter={iterations}",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=3",
        f"dataloader.train.num_workers={workers}",
        "dataloader.evaluator=null",
    ]
    data = shapes(folder)
    whole, broken = folder / "whole", folder / "broken"
    start = time.monotonic()
    first_run = Run(folder / "whole.log", tiny_arguments(data, whole, *common))
    first_run.until(lambda: iteration_of(whole) >= 0)
    span = time.monotonic() - start
    assert first_run.wait() == 0, first_run.text()
    iteration = (time.monotonic() - start - span) / iterations
    arguments = tiny_arguments(data, broken, *common)
    runs: list[Run] = []
    moments: Counter = Counter()
    while len(runs) < kills and not any(run.status == 0 for run in runs):
        runs.append(Run(folder / f"{len(runs)}.log", [*arguments, *(["--resume"] if runs else [])]))
        moments[kill(runs[-1], broken, moment, span, iteration)] += 1
    runs.append(Run(folder / "last.log", [*arguments, "--resume"]))
    runs[-1].wait()
    statuses = [run.status for run in runs]
    steps = [line["iteration"] for line in metrics_of(broken) if "total_loss" in line]
    first, second = (torch.load(run / "model_final.pth", weights_only=True) for run in (whole, broken))
    return {
        "kills": statuses.count(-signal.SIGKILL),
        "moments": dict(moments),
        "resumed from": sorted({int(at) for run in runs for at in _RESUMED.findall(run.text())}),
        "problems": [run.text()[-2000:] for run in runs if "Traceback" in run.text() or run.errors],
        "end": statuses[-1],
        "twice": len(steps) - len(set(steps)),
        "missing": len(set(range(iterations)) - set(steps)),
        "left": sorted(path.name for path in broken.iterdir() if path.name.startswith(".")),
        "equal": same(first, second),
    }


if __name__ == "__main__":
    print(json.dumps(drill(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
