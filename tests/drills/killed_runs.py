"""Kills a run with SIGKILL at random moments and resumes it, until it is done; prints what it found as JSON.

killed_runs.py FOLDER KILLS SEED [WORKERS]
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

import torch
from drills.forked import Run, shapes
from helpers.tiny_runs import metrics_of, tiny_arguments

# Iterations for each kill: few enough that some kills fall into the start of a run, and some into its steps.
_ITERATIONS = 6


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


def drill(folder: Path, kills: int, seed: int, workers: int = 0) -> dict:
    """An unbroken run, and one that is killed so often: what differs between them."""
    random_moment = random.Random(seed)
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
    assert Run(folder / "whole.log", tiny_arguments(data, whole, *common)).wait() == 0
    span = (time.monotonic() - start) / kills
    arguments = tiny_arguments(data, broken, *common)
    runs: list[Run] = []
    while len(runs) < kills and not any(run.status == 0 for run in runs):
        runs.append(Run(folder / f"{len(runs)}.log", [*arguments, *(["--resume"] if runs else [])]))
        time.sleep(random_moment.uniform(0, 4 * span))
        runs[-1].kill(signal.SIGKILL)
    runs.append(Run(folder / "last.log", [*arguments, "--resume"]))
    runs[-1].wait()
    statuses = [run.status for run in runs]
    steps = [line["iteration"] for line in metrics_of(broken) if "total_loss" in line]
    first, second = (torch.load(run / "model_final.pth", weights_only=True) for run in (whole, broken))
    return {
        "kills": statuses.count(-signal.SIGKILL),
        "resumed from": sorted({run.text().partition("from iteration ")[2][:4].strip() for run in runs}),
        "problems": [run.text()[-2000:] for run in runs if "Traceback" in run.text() or run.errors],
        "end": statuses[-1],
        "twice": len(steps) - len(set(steps)),
        "missing": len(set(range(iterations)) - set(steps)),
        "left": sorted(path.name for path in broken.iterdir() if path.name.startswith(".")),
        "equal": same(first, second),
    }


if __name__ == "__main__":
    print(json.dumps(drill(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
