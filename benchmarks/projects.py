"""The projects against plain Mask R-CNN on the built-in data: same backbone, same iterations, same seeds.

    python benchmarks/projects.py [KEY=VALUE ...] [--only NAME ...] [--seeds N] [--output DIR]

Stopped at any time, it goes on where it was. The table is written anew after every run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate
from training_runs import (
    TASKS,
    Runs,
    Settings,
    cell,
    paired_differences,
    parse_arguments,
    run_and_print,
    values_of,
)

from mrcnn_plugin.atomic_files import write_atomically

PLAIN = "Shapes/mask_rcnn_R_18_FPN.py"
COLUMNS = (
    ("bbox", "AP"),
    ("bbox", "AP75"),
    ("segm", "AP"),
    ("segm", "AP75"),
    ("segm", "APs"),
    ("segm", "APm"),
    ("segm", "APl"),
)


@dataclass(frozen=True)
class Project:
    """A project's config, and the metrics (task, name) that its paper claims to raise."""

    config: str
    claims: tuple[tuple[str, str], ...] = ()


PROJECTS = {
    "cascade_mask_rcnn": Project(
        "projects/cascade_mask_rcnn/configs/Shapes/cascade_mask_rcnn_R_18_FPN.py", (("bbox", "AP75"),)
    ),
    "mask_scoring_rcnn": Project(
        "projects/mask_scoring_rcnn/configs/Shapes/mask_scoring_rcnn_R_18_FPN.py", (("segm", "AP"),)
    ),
    "panet": Project("projects/panet/configs/Shapes/panet_R_18_FPN.py", (("segm", "APs"), ("segm", "APm"))),
    "htc": Project("projects/htc/configs/Shapes/htc_R_18_FPN.py", (("segm", "AP"),)),
    "point_rend": Project("projects/point_rend/configs/Shapes/point_rend_R_18_FPN.py", (("segm", "AP75"),)),
    "swin_mask_rcnn": Project("projects/swin_mask_rcnn/configs/Shapes/mask_rcnn_swin_FPN.py"),
}


def configs_of(names: Iterable[str]) -> list[str]:
    """The configs of these projects, after that of the plain model."""
    return [PLAIN, *(PROJECTS[name].config for name in names)]


def verdict(differences: Sequence[float]) -> str:
    """Whether the project is ahead, by its mean difference from the plain model."""
    if not differences:
        return "no result"
    ahead = sum(difference > 0 for difference in differences)
    word = "ahead" if statistics.fmean(differences) >= 0 else "behind"
    return f"{word} (better in {ahead} of {len(differences)} seeds)"


def table_rows(names: Iterable[str], runs: Runs) -> list[list[str]]:
    """A row for each model: its name, its metrics."""
    rows = []
    for name, config in [("plain", PLAIN), *((name, PROJECTS[name].config) for name in names)]:
        columns = [values_of(runs, config, task, metric).values() for task, metric in COLUMNS]
        rows.append([name, *map(cell, columns)])
    return rows


def claim_rows(names: Iterable[str], runs: Runs) -> list[list[str]]:
    """A row for each claim: project, metric, difference from the plain model of the same seed, verdict."""
    rows = []
    for name in names:
        for task, metric in PROJECTS[name].claims:
            differences = paired_differences(runs, PROJECTS[name].config, PLAIN, task, metric)
            by_seed = ", ".join(f"{difference:+.1f}" for difference in differences)
            rows.append([name, f"{TASKS[task]} {metric}", by_seed, verdict(differences)])
    return rows


def markdown(names: Sequence[str], runs: Runs, settings: Settings) -> str:
    """Both tables and how to read them."""
    seeds = len({seed for _, seed in runs})
    header = ["model", *(f"{TASKS[task]} {metric}" for task, metric in COLUMNS)]
    metrics = tabulate(table_rows(names, runs), header, tablefmt="pipe", disable_numparse=True)
    header = ["project", "claim", "less plain, by seed", "verdict"]
    claims = tabulate(claim_rows(names, runs), header, tablefmt="pipe", disable_numparse=True)
    return f"""# Projects against plain Mask R-CNN

Built-in shapes, {settings}, {seeds} seed{"s" if seeds != 1 else ""}: mean ± standard deviation over seeds.
A dash: the data has no object of that size.

{metrics}

{claims}
"""


def write_report(names: Sequence[str], runs: Runs, settings: Settings, output: Path) -> None:
    """Writes projects.md into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "projects.md", markdown(names, runs, settings).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(__doc__.splitlines()[0], PROJECTS, 420, "output/projects", arguments)
    return run_and_print(args, configs_of(args.only), "projects.md", write_report)


if __name__ == "__main__":
    sys.exit(main())
