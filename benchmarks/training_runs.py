"""Runs of several configs over several seeds: trained, resumed, read, averaged.

What ablations.py, projects.py and real_pictures.py share. Stopped at any time, `run_all` goes on where it
was: finished runs are read from their results.json, the unfinished one is resumed from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"segm": "mask", "bbox": "box", "keypoints": "keypoint"}

#: Task -> metric -> percent.
Results = Mapping[str, Mapping[str, float]]
#: Config, seed -> results of the finished run.
Runs = Mapping[tuple[str, int], Results]


@dataclass(frozen=True)
class Settings:
    """What all runs have in common: their length, and `key=value` overrides of their configs."""

    iterations: int
    overrides: tuple[str, ...] = ()

    def folder(self, output: Path, config: str, seed: int) -> Path:
        """Where a run lies; runs of different settings do not mix."""
        # As an override of its own, the path may hold no special character.
        overrides = (re.sub(r"[^\w.]+", "_", override) for override in self.overrides)
        parts = [Path(config).stem, str(self.iterations), *overrides]
        return output / "-".join(parts) / f"seed{seed}"

    def __str__(self) -> str:
        return ", ".join([f"{self.iterations} iterations", *(f"`{o}`" for o in self.overrides)])


def read_run(folder: Path) -> dict[str, dict[str, float]] | None:
    """The results of a finished run, NaN where a metric was not finite; None of an unfinished one."""
    try:
        results = json.loads((folder / "results.json").read_text())["results"]
    except FileNotFoundError:
        return None
    return {
        task: {metric: math.nan if value is None else value for metric, value in values.items()}
        for task, values in results.items()
        if task in TASKS
    }


def train(config: str, folder: Path, settings: Settings, seed: int) -> int:
    """Trains or resumes one run in a process of its own; its exit status."""
    command = [
        *(sys.executable, str(ROOT / "train_net.py"), "--config-file", config, "--resume"),
        f"train.output_dir={folder}",
        f"train.seed={seed}",
        f"train.max_iter={settings.iterations}",
        f"train.eval_period={settings.iterations}",
        *settings.overrides,
    ]
    return run_to_its_end(command)


def run_to_its_end(command: list[str]) -> int:
    """Runs a process and waits for it, handing SIGINT and SIGTERM on: it saves a checkpoint then."""
    process = None

    def forward(signum: int, frame: object) -> None:
        if process is not None:
            process.send_signal(signum)

    former = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        # In a session of its own: a terminal's Ctrl-C would reach it twice, and the second ends it at once.
        process = subprocess.Popen(command, start_new_session=True)
        return process.wait()
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


def run_all(
    configs: Sequence[str],
    seeds: int,
    settings: Settings,
    output: Path,
    report: Callable[[Runs], None],
    trainer: Callable[[str, Path, Settings, int], int] = train,
) -> int:
    """Brings every run to its end, seed by seed, calling `report` with all that is finished after each.

    Returns:
        0, or the exit status of the run that failed or was interrupted.
    """
    todo = [(config, seed) for seed in range(seeds) for config in configs]
    runs = {}
    for config, seed in todo:
        done = read_run(settings.folder(output, config, seed))
        if done is not None:
            runs[config, seed] = done
    report(runs)
    for config, seed in todo:
        if (config, seed) in runs:
            continue
        folder = settings.folder(output, config, seed)
        print(f"[{len(runs) + 1}/{len(todo)}] {config}, seed {seed}: {folder}", flush=True)
        status = trainer(config, folder, settings, seed)
        if status:
            return status
        done = read_run(folder)
        if done is None:
            raise FileNotFoundError(f"{folder}/results.json: the run ended without writing it")
        runs[config, seed] = done
        report(runs)
    return 0


def run_and_print(
    args: argparse.Namespace,
    configs: Sequence[str],
    table: str,
    write_report: Callable[[Sequence[str], Runs, Settings, Path], None],
    trainer: Callable[[str, Path, Settings, int], int] = train,
) -> int:
    """Brings the runs of a command line (`parse_arguments`) to their end and prints the table.

    Args:
        table: name of the file that `write_report(names, runs, settings, output)` writes in `output`.

    Returns:
        `run_all`'s status.
    """

    def report(runs: Runs) -> None:
        write_report(args.only, runs, args.settings, args.output)

    status = run_all(configs, args.seeds, args.settings, args.output, report, trainer)
    if status:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
    else:
        print((args.output / table).read_text())
    print(f"Table: {args.output / table}")
    return status


def values_of(runs: Runs, config: str, task: str, metric: str) -> dict[int, float]:
    """A metric of a config's finished runs by seed; NaN where a run has no such metric."""
    return {
        seed: run[task].get(metric, math.nan)
        for (name, seed), run in sorted(runs.items())
        if name == config and task in run
    }


def paired_differences(runs: Runs, config: str, reference: str, task: str, metric: str) -> list[float]:
    """The metric of `config` less that of `reference`, for each seed for which both have a finite one."""
    ours, theirs = (values_of(runs, name, task, metric) for name in (config, reference))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return [difference for difference in differences if math.isfinite(difference)]


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for that of a single value, or of any that is NaN."""
    values = list(values)
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) if len(values) > 1 and math.isfinite(mean) else None


def cell(values: Iterable[float], sign: str = "") -> str:
    """Mean ± standard deviation for a table; empty without values, a dash where any is NaN."""
    values = list(values)
    if not values:
        return ""
    mean, spread = mean_and_spread(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:{sign}.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def parse_arguments(
    description: str, names: Iterable[str], iterations: int, output: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """The command line of such a script: `only`, `seeds`, `output`, and the runs' `settings`."""
    names = list(names)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--seeds", type=positive, default=2, metavar="N", help="runs of each config")
    parser.add_argument("--iterations", type=positive, default=iterations, metavar="N", help="of each run")
    parser.add_argument("--output", type=Path, default=Path(output), metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override of every run's config")
    args = parser.parse_intermixed_args(arguments)
    for override in args.overrides:
        if "=" not in override:
            parser.error(f"expected KEY=VALUE, got {override!r}")
    args.settings = Settings(args.iterations, tuple(args.overrides))
    return args
