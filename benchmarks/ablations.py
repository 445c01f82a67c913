"""The paper's ablations on the built-in data: trains what is missing, writes one table and one plot.

    python benchmarks/ablations.py [KEY=VALUE ...] [--only NAME ...] [--seeds N] [--output DIR]

Stopped at any time, it goes on where it was: finished runs are read from their results.json, the unfinished
one is resumed from its checkpoint. The table is written anew after every run. Models, data and schedule are
those of configs/Ablations and configs/Shapes, many times smaller than the paper's: what can be compared is
the direction of a difference and not its size.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate
from training_runs import (
    TASKS,
    Runs,
    Settings,
    cell,
    mean_and_spread,
    paired_differences,
    parse_arguments,
    run_and_print,
    values_of,
)

from mrcnn_plugin.atomic_files import replacing, write_atomically

PAPER = "He et al., Mask R-CNN, arXiv 1703.06870"
METRICS = ("AP", "AP50", "AP75")
# A smaller difference of AP is no claim that one is better: neither in the paper nor in ours.
TIE = 0.5

#: Task -> AP, AP50, AP75; None where the paper does not tell.
Numbers = Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: what it is, its config, the paper's numbers."""

    label: str
    config: str
    paper: Numbers


@dataclass(frozen=True)
class Ablation:
    """One of the paper's tables.

    title: what is varied; source: where the paper has it, and on which model; variants: the first is what
    the others are compared with.
    """

    title: str
    source: str
    variants: tuple[Variant, ...]


_FPN = "Shapes/mask_rcnn_R_18_FPN.py"
_KEYPOINT = "Shapes/keypoint_rcnn_R_18_FPN.py"
_C4 = "Ablations/mask_rcnn_R_18_C4.py"
_C5 = "Ablations/mask_rcnn_R_18_C5.py"

_SIGMOID_C4 = (30.3, 51.2, 31.5)

ABLATIONS = {
    "backbone": Ablation(
        "Backbone (ours: ResNet-18, 34)",
        "Table 2a, ResNet-50, 101, FPN",
        (
            Variant("shallower", _FPN, {"segm": (33.6, 55.2, 35.3)}),
            Variant("deeper", "Ablations/mask_rcnn_R_34_FPN.py", {"segm": (35.4, 57.3, 37.5)}),
        ),
    ),
    "softmax": Ablation(
        "Masks of classes",
        "Table 2b, ResNet-50-C4",
        (
            Variant("independent (sigmoid)", _C4, {"segm": _SIGMOID_C4}),
            Variant(
                "multinomial (softmax)",
                "Ablations/mask_rcnn_R_18_C4_softmax.py",
                {"segm": (24.8, 44.1, 25.1)},
            ),
        ),
    ),
    "agnostic": Ablation(
        "Class-specific masks",
        "section 4.2, ResNet-50-C4",
        (
            Variant("class-specific", _C4, {"segm": _SIGMOID_C4}),
            Variant(
                "class-agnostic", "Ablations/mask_rcnn_R_18_C4_agnostic.py", {"segm": (29.7, None, None)}
            ),
        ),
    ),
    "pooling": Ablation(
        "Pooling at stride 16",
        "Table 2c, ResNet-50-C4",
        (
            Variant("RoIAlign, avg", _C4, {"segm": (30.3, 51.2, 31.5)}),
            Variant(
                "RoIAlign, max", "Ablations/mask_rcnn_R_18_C4_roi_align_max.py", {"segm": (30.2, 51.0, 31.8)}
            ),
            Variant("RoIWarp, avg", "Ablations/mask_rcnn_R_18_C4_roi_warp.py", {"segm": (27.1, 48.9, 27.1)}),
            Variant(
                "RoIWarp, max", "Ablations/mask_rcnn_R_18_C4_roi_warp_max.py", {"segm": (27.2, 49.2, 27.1)}
            ),
            Variant("RoIPool, max", "Ablations/mask_rcnn_R_18_C4_roi_pool.py", {"segm": (26.9, 48.8, 26.4)}),
        ),
    ),
    "stride32": Ablation(
        "Pooling at stride 32",
        "Table 2d, ResNet-50-C5",
        (
            Variant("RoIAlign", _C5, {"segm": (30.9, 51.8, 32.1), "bbox": (34.0, 55.3, 36.4)}),
            Variant(
                "RoIPool",
                "Ablations/mask_rcnn_R_18_C5_roi_pool.py",
                {"segm": (23.6, 46.5, 21.6), "bbox": (28.2, 52.7, 26.9)},
            ),
        ),
    ),
    "head": Ablation(
        "Mask branch",
        "Table 2e, ResNet-50-FPN",
        (
            Variant("FCN", _FPN, {"segm": (33.6, 55.2, 35.3)}),
            Variant(
                "MLP, 2 hidden layers",
                "Ablations/mask_rcnn_R_18_FPN_mlp2.py",
                {"segm": (31.5, 53.7, 32.8)},
            ),
            Variant(
                "MLP, 3 hidden layers",
                "Ablations/mask_rcnn_R_18_FPN_mlp3.py",
                {"segm": (31.5, 54.0, 32.6)},
            ),
        ),
    ),
    "multitask": Ablation(
        "Boxes trained with masks",
        "Table 3, ResNet-101-FPN",
        (
            Variant("with the mask branch", _FPN, {"bbox": (38.2, 60.3, 41.7)}),
            Variant("boxes alone", "Ablations/faster_rcnn_R_18_FPN.py", {"bbox": (37.3, 59.6, 40.3)}),
        ),
    ),
    "keypoint": Ablation(
        "Pooling for keypoints",
        "Table 6, ResNet-50-FPN",
        (
            Variant("RoIAlign", _KEYPOINT, {"keypoints": (64.2, 86.6, 69.7)}),
            Variant(
                "RoIPool",
                "Ablations/keypoint_rcnn_R_18_FPN_roi_pool.py",
                {"keypoints": (59.8, 86.2, 66.7)},
            ),
        ),
    ),
}


def configs_of(names: Iterable[str]) -> list[str]:
    """The configs of these ablations, each once."""
    return list(dict.fromkeys(variant.config for name in names for variant in ABLATIONS[name].variants))


def verdict(paper: float, ours: list[float]) -> str:
    """Whether our differences, one per seed, have the sign of the paper's."""
    if not ours:
        return "no result"
    if abs(paper) < TIE:
        return "tie in the paper"
    if abs(statistics.fmean(ours)) < TIE:
        return "tie in ours"
    agreeing = sum(difference * paper > 0 for difference in ours)
    if agreeing == len(ours):
        return f"agrees ({agreeing} of {len(ours)} seeds)"
    if agreeing == 0:
        return f"disagrees (0 of {len(ours)} seeds)"
    return f"unclear ({agreeing} of {len(ours)} seeds)"


def _ours(runs: Runs, config: str, task: str) -> str:
    columns = [values_of(runs, config, task, metric).values() for metric in METRICS]
    return " / ".join(map(cell, columns)) if columns[0] else ""


def table_rows(names: Iterable[str], runs: Runs) -> list[list[str]]:
    """One row for each variant and task of the ablations `names`."""
    rows = []
    for ablation in (ABLATIONS[name] for name in names):
        reference = ablation.variants[0]
        for task in reference.paper:
            for variant in ablation.variants:
                numbers = variant.paper[task]
                row = [
                    f"{ablation.title} ({ablation.source})",
                    TASKS[task],
                    variant.label,
                    " / ".join("–" if n is None else f"{n:.1f}" for n in numbers),
                    _ours(runs, variant.config, task),
                ]
                if variant is reference:
                    rows.append([*row, "", "", "reference"])
                    continue
                paper = numbers[0] - reference.paper[task][0]
                ours = paired_differences(runs, variant.config, reference.config, task, "AP")
                rows.append([*row, f"{paper:+.1f}", cell(ours, sign="+"), verdict(paper, ours)])
    return rows


def markdown(names: Iterable[str], runs: Runs, settings: Settings) -> str:
    """The table and how to read it."""
    header = ["ablation", "of", "variant", "paper", "ours", "paper, Δ AP", "ours, Δ AP", "direction"]
    table = tabulate(table_rows(names, runs), header, tablefmt="pipe", disable_numparse=True)
    seeds = len({seed for _, seed in runs})
    return f"""# Ablations

Paper: {PAPER}, trained on COCO. Ours: configs/Shapes and configs/Ablations on the built-in data,
{settings}, {seeds} seed{"s" if seeds != 1 else ""}. AP / AP50 / AP75, mean ± standard deviation
over seeds. Δ AP: less the reference's of the same seed. A direction agrees where every seed has the sign of
the paper's difference, and is unclear where some have; less than {TIE} AP, there or here, is called a tie.

{table}
"""


def figure(names: Iterable[str], runs: Runs) -> Figure:
    """Bars of Δ AP, the paper's and ours, for every variant that was run."""
    bars = []
    for ablation in (ABLATIONS[name] for name in names):
        reference = ablation.variants[0]
        for task in reference.paper:
            for variant in ablation.variants[1:]:
                ours = paired_differences(runs, variant.config, reference.config, task, "AP")
                if ours:
                    paper = variant.paper[task][0] - reference.paper[task][0]
                    label = f"{variant.label} – {reference.label}\n{ablation.title}, {TASKS[task]} AP"
                    bars.append((label, paper, *mean_and_spread(ours)))
    result = Figure(figsize=(8, 1.2 + 0.45 * max(len(bars), 1)), layout="constrained", dpi=110)
    axes = result.add_subplot()
    places = range(len(bars))
    axes.barh([p - 0.2 for p in places], [bar[1] for bar in bars], 0.36, color="0.7", label="paper, COCO")
    spreads = [bar[3] or 0.0 for bar in bars]
    axes.barh(
        [p + 0.2 for p in places], [bar[2] for bar in bars], 0.36, xerr=spreads, label="ours, built-in data"
    )
    axes.set_yticks(list(places), [bar[0] for bar in bars], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("difference of AP")
    result.legend(loc="outside upper right", ncols=2)
    return result


def write_report(names: Iterable[str], runs: Runs, settings: Settings, output: Path) -> None:
    """Writes ablations.md and ablations.png into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "ablations.md", markdown(names, runs, settings).encode())
    with replacing(str(output / "ablations.png")) as part:
        figure(names, runs).savefig(part, format="png")


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(__doc__.splitlines()[0], ABLATIONS, 1000, "output/ablations", arguments)
    return run_and_print(args, configs_of(args.only), "ablations.md", write_report)


if __name__ == "__main__":
    sys.exit(main())
