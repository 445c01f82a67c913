"""Kills a run with SIGKILL at random moments and resumes it, until it is done; prints what it found as JSON.

killed_runs.py FOLDER KILLS SEED [WORKERS]. The runs are forked from this process, which has imported
everything: the moments of the kills fall on the run itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from helpers.tiny_runs import metrics_of, tiny_arguments

from mrcnn_plugin.data.synthetic.shapes import SetParameters, ensure_set
from mrcnn_plugin.train import argument_parser, main, run


def fork_run(log: Path, arguments: list[str]) -> int:
    """A run of train_net.py in a forked process, with its output in `log`; its process id."""
    pid = os.fork()
    if pid:
        return pid
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 70
    try:
        status = run(main, 1, 1, 0, "auto", (argument_parser().parse_intermixed_args(arguments),))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int) -> int:
    """The exit status; -N of a process that signal N ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def shapes(root: Path) -> dict[str, str]:
    names = {}
    for split in ("train", "val"):
        paths = ensure_set(root, "shapes", split, SetParameters("shapes", split, images=6, size=64))
        names[split] = f"coco:{paths.json_file}:{paths.image_root}"
    return names


def same(first: object, second: object) -> bool:
    """Equality to the bit, through nested containers of tensors."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same(first[key], second[key]) for key in first)
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def main_drill(folder: Path, kills: int, seed: int, workers: int = 0) -> dict:
    draw = random.Random(seed)
    data = shapes(folder)
    iterations = 6 * kills
    common = [
        f"train.max_iter={iterations}",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=3",
    ]
    common += [f"dataloader.train.num_workers={workers}", "dataloader.evaluator=null"]
    whole, broken = folder / "whole", folder / "broken"
    start = time.monotonic()
    assert wait(fork_run(folder / "whole.log", tiny_arguments(data, whole, *common))) == 0, (
        folder / "whole.log"
    ).read_text()
    span = (time.monotonic() - start) / kills
    statuses: list[int] = []
    arguments = tiny_arguments(data, broken, *common)
    problems = []
    while statuses.count(-signal.SIGKILL) < kills:
        log = folder / f"broken{len(statuses)}.log"
        pid = fork_run(log, [*arguments, *(["--resume"] if statuses else [])])
        time.sleep(draw.uniform(0, 3 * span))
        os.kill(pid, signal.SIGKILL)
        statuses.append(wait(pid))
        if "Traceback" in log.read_text() or statuses[-1] not in (0, -signal.SIGKILL):
            problems.append(log.read_text()[-2000:])
        if statuses[-1] == 0:
            break
    log = folder / "last.log"
    statuses.append(wait(fork_run(log, [*arguments, "--resume"])))
    if statuses[-1]:
        problems.append(log.read_text()[-2000:])
    steps = [line["iteration"] for line in metrics_of(broken) if "total_loss" in line]
    states = [torch.load(run / "model_final.pth", weights_only=True) for run in (whole, broken)]
    return {
        "kills": statuses.count(-signal.SIGKILL),
        "problems": problems,
        "twice": len(steps) - len(set(steps)),
        "missing": len(set(range(iterations)) - set(steps)),
        "left": sorted(p.name for p in broken.iterdir() if p.name.startswith(".")),
        "equal": same(*states),
    }


if __name__ == "__main__":
    print(json.dumps(main_drill(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
