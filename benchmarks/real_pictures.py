"""The family on real pictures, from ImageNet weights and from none: what docs/RESULTS.md is made of.

    python benchmarks/real_pictures.py --nuclei FOLDER --coco-person FOLDER [KEY=VALUE ...] [--only NAME ...]

Each folder holds train.json, val.json and images/. Every run has the same number of iterations, those of
keypoints twice as many; all else is chosen by the recipe of configs/FineTune. Stopped at any time, it goes
on where it was. Two of these commands with different `--only` may run side by side; the same command
without `--only` then writes the whole table.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    train,
    values_of,
)

from mrcnn_plugin.atomic_files import write_atomically

MASKS = "configs/FineTune/mask_rcnn_efficientnet_lite0_FPN.py"
KEYPOINTS = "configs/FineTune/keypoint_rcnn_efficientnet_lite0_FPN.py"
# Normalisation that is frozen with the statistics of weights that are not there would be no normalisation.
SCRATCH = (
    "train.init_checkpoint=",
    "model.backbone.bottom_up.norm=",
    "model.backbone.bottom_up.freeze_at=0",
)
COST = "cpu_seconds.json"


@dataclass(frozen=True)
class Row:
    """A model on a set.

    Attributes:
        data: name of the set, an option of the command line.
        config: file below the repository's root.
        task: whose AP is compared.
        reference: row that it is compared with; empty for one that others are compared with.
        expected: sign of the difference that the paper finds; 0 where it claims none for this data.
        source: where it finds it.
        overrides: `key=value`.
        times: how many times as many iterations as the other rows; keypoints learn more slowly.
    """

    data: str
    config: str
    task: str = "segm"
    reference: str = ""
    expected: int = 0
    source: str = ""
    overrides: tuple[str, ...] = ()
    times: int = 1


def _project(name: str, config: str, task: str = "segm", source: str = "") -> Row:
    path = f"projects/{name}/configs/FineTune/{config}_efficientnet_lite0_FPN.py"
    return Row("nuclei", path, task, "nuclei_masks", +1, source)


def _ablation(name: str, source: str) -> Row:
    path = f"configs/Ablations/mask_rcnn_efficientnet_lite0_FPN_{name}.py"
    return Row("nuclei", path, "segm", "nuclei_masks", -1, source)


ROWS = {
    "nuclei_masks": Row("nuclei", MASKS),
    "person_masks": Row("coco_person", MASKS),
    "person_keypoints": Row("coco_person", KEYPOINTS, "keypoints", times=2),
    "nuclei_masks_scratch": Row("nuclei", MASKS, "segm", "nuclei_masks", -1, "", SCRATCH),
    "person_masks_scratch": Row("coco_person", MASKS, "segm", "person_masks", -1, "", SCRATCH),
    "person_keypoints_scratch": Row(
        "coco_person", KEYPOINTS, "keypoints", "person_keypoints", -1, "", SCRATCH, times=2
    ),
    "cascade": _project("cascade_mask_rcnn", "cascade_mask_rcnn", "bbox", "arXiv 1906.09756"),
    "mask_scoring": _project("mask_scoring_rcnn", "mask_scoring_rcnn", source="arXiv 1903.00241"),
    "panet": _project("panet", "panet", source="arXiv 1803.01534"),
    "htc": _project("htc", "htc", source="arXiv 1901.07518"),
    "point_rend": _project("point_rend", "point_rend", source="arXiv 1912.08193"),
    "roi_pool": _ablation("roi_pool", "Table 2c"),
    "mlp_masks": _ablation("mlp2", "Table 2e"),
}


@dataclass(frozen=True)
class Training:
    """Trains a row of the table; what `training_runs.run_all` takes as its `trainer`."""

    folders: dict[str, Path]

    def __call__(self, name: str, folder: Path, settings: Settings, seed: int) -> int:
        row = ROWS[name]
        data = self.folders[row.data]
        sets = [
            f"dataloader.{split}.dataset.names=coco:{data / file}:{data / 'images'}"
            for split, file in (("train", "train.json"), ("test", "val.json"))
        ]
        overrides = (*sets, *row.overrides, *settings.overrides)
        settings = replace(settings, iterations=row.times * settings.iterations, overrides=overrides)
        before = _cpu_seconds()
        try:
            return train(row.config, folder, settings, seed)
        finally:
            # A run that was resumed has cost both its parts.
            spent = cost_of(folder) + _cpu_seconds() - before
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / COST, json.dumps(spent).encode())


def _cpu_seconds() -> float:
    """Of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cost_of(folder: Path) -> float:
    """Seconds of processor time that a run has taken, its evaluation and loaders included."""
    path = folder / COST
    return json.loads(path.read_text()) if path.exists() else 0.0


def verdict(differences: Sequence[float], expected: int) -> str:
    """Whether the differences of the seeds have the sign that was expected of them."""
    if not differences or not expected:
        return ""
    agreeing = sum(difference * expected > 0 for difference in differences)
    if agreeing == len(differences):
        return "as expected"
    return "the other way" if agreeing == 0 else "either way"


def table_rows(names: Iterable[str], runs: Runs, settings: Settings, output: Path) -> list[list[str]]:
    """A row for each model: AP of its tasks, differences from its reference, processor minutes of a run."""
    rows = []
    for name in names:
        row = ROWS[name]
        seeds = sorted(seed for done, seed in runs if done == name)
        columns = [
            cell(values_of(runs, name, task, metric).values())
            for task in ("bbox", "segm", "keypoints")
            for metric in ("AP", "AP50")
        ]
        differences = paired_differences(runs, name, row.reference, row.task, "AP") if row.reference else []
        compared = f"{TASKS[row.task]} {', '.join(f'{d:+.1f}' for d in differences)}" if differences else ""
        minutes = [cost_of(settings.folder(output, name, seed)) / 60 for seed in seeds]
        cost = f"{statistics.fmean(minutes):.1f}" if minutes else ""
        rows.append([name, *columns, row.reference, compared, verdict(differences, row.expected), cost])
    return rows


def write_report(names: Sequence[str], runs: Runs, settings: Settings, output: Path) -> None:
    """Writes real_pictures.md into `output`."""
    header = ["run", "box AP", "AP50", "mask AP", "AP50", "keypoint AP", "AP50"]
    header += ["less", "by seed", "", "CPU minutes"]
    table = tabulate(
        table_rows(names, runs, settings, output), header, tablefmt="pipe", disable_numparse=True
    )
    seeds = len({seed for _, seed in runs})
    text = f"""# Real pictures

{settings} (keypoints: twice as many), {seeds} seed{"s" if seeds != 1 else ""}.
Mean ± standard deviation over seeds.

{table}
"""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "real_pictures.md", text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    folders = argparse.ArgumentParser(add_help=False)
    for data in ("nuclei", "coco-person"):
        folders.add_argument(f"--{data}", type=Path, metavar="DIR")
    given, others = folders.parse_known_args(arguments)
    args = parse_arguments(__doc__.splitlines()[0], ROWS, 200, "output/real_pictures", others)
    where = {"nuclei": given.nuclei, "coco_person": given.coco_person}
    missing = sorted({ROWS[name].data for name in args.only if where[ROWS[name].data] is None})
    if missing:
        print(f"Give --{' and --'.join(m.replace('_', '-') for m in missing)}.", file=sys.stderr)
        return 2
    training = Training({name: path.resolve() for name, path in where.items() if path is not None})
    return run_and_print(args, args.only, "real_pictures.md", write_report, training)


if __name__ == "__main__":
    sys.exit(main())
