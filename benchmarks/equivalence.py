"""Training is Detectron2's training: its own model and this one, from the same weights, on the same batches.

    python benchmarks/equivalence.py --nuclei FOLDER [--only SET] [--iterations N] [--seeds N] [KEY=VALUE ...]

Trains the fine-tuning config on the folder (train.json, val.json, images/) and the demo's on the built-in
shapes, each with Detectron2's classes and with this package's: same seed, initial weights and order of
images, float32. Says what AP both reach, and draws the curves.

How far the losses of the first 20 iterations are apart is said three times. In float64, where rounding is
far below 1e-3: this is the algorithm. In float32, where the first steps of Adam turn a gradient that is
nothing but rounding into a step of full size, and a score that ties picks another proposal. And of
Detectron2 against itself in float32, from initial weights that are changed in their last bit: this is what
rounding alone does.

Finished runs are kept: stopped, it goes on with the next.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from detectron2.utils.env import seed_all_rng
from model_zoo import detectron2_model
from tabulate import tabulate
from training_runs import ROOT, TASKS, positive, read_run

from mrcnn_plugin.atomic_files import write_atomically

if TYPE_CHECKING:
    from mrcnn_plugin.config import RunConfig

CONFIGS = {
    "nuclei": "configs/FineTune/mask_rcnn_efficientnet_lite0_FPN.py",
    "shapes": "configs/Shapes/mask_rcnn_R_18_FPN.py",
}
MODELS = {"detectron2": "Detectron2", "plugin": "mrcnn_plugin"}
FIRST = 20
LOSSES = "losses.json"
# What only takes the first iterations: float64 of both, and Detectron2 from weights that are a little off.
FLOAT64, NUDGED = "float64", "nudged"
VARIANTS = {"plugin": (FLOAT64,), "detectron2": (FLOAT64, NUDGED)}


def train_one(model_of: str, seed: int, variant: str, arguments: Sequence[str]) -> int:
    """The body of train_net.py, with the losses of every iteration kept in the run folder.

    Args:
        model_of: a key of MODELS.
        seed: of the initial weights.
        variant: empty for a whole training, or one of VARIANTS for its first iterations.
        arguments: of train_net.py.
    """
    from mrcnn_plugin.train.command_line import argument_parser, setup
    from mrcnn_plugin.train.loop import train

    config = setup(argument_parser().parse_args(arguments))
    losses: list[dict[str, float]] = []
    if model_of == "detectron2":
        config.raw.model = detectron2_model(config.raw.model)
    build = config.build_model

    def build_model() -> torch.nn.Module:
        seed_all_rng(seed)
        model = build()
        # Both start from the weights that this package's model draws; what drawing takes differs.
        start = Path(config.output_dir).parent / f"initial-seed{seed}.pth"
        if model_of == "plugin" and not start.exists():
            torch.save(model.state_dict(), start)
        model.load_state_dict(torch.load(start))
        seed_all_rng(seed)
        model.register_forward_hook(
            lambda module, inputs, output: (
                losses.append({name: float(loss) for name, loss in output.items()})
                if module.training
                else None
            )
        )
        return model

    config.build_model = build_model
    if variant:
        train_first(config, seed, variant)
    else:
        train(config)
    write_atomically(Path(config.output_dir) / LOSSES, json.dumps(losses).encode())
    return 0


def train_first(config: RunConfig, seed: int, variant: str) -> None:
    """The first iterations of the training that a config describes, without evaluation and checkpoints."""
    from detectron2.engine import hooks
    from detectron2.modeling.proposal_generator import proposal_utils

    from mrcnn_plugin.checkpoint import DetectionCheckpointer
    from mrcnn_plugin.data import ResumableLoader
    from mrcnn_plugin.train.hooks import StepSeed
    from mrcnn_plugin.train.trainer import Trainer

    model = config.build_model()
    DetectionCheckpointer(model).load(config.init_checkpoint)
    if variant == FLOAT64:
        model.double()
        # Detectron2 decodes boxes to float32, and NMS wants scores of the same type.
        nms = proposal_utils.batched_nms
        proposal_utils.batched_nms = lambda boxes, scores, *others: nms(boxes, scores.float(), *others)
    else:
        nudge(model, seed)
    optimizer = config.build_optimizer(model)
    trainer = Trainer(model, ResumableLoader(config.build_train_loader(), seed), optimizer)
    trainer.register_hooks([StepSeed(seed), hooks.LRScheduler(optimizer, config.build_scheduler(optimizer))])
    trainer.train(0, FIRST)


def nudge(model: torch.nn.Module, seed: int) -> None:
    """Moves each weight up, down or not at all, by one unit in the last place of float32."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            ways = torch.randint(-1, 2, weight.shape, generator=generator)
            weight.copy_(torch.nextafter(weight, weight + ways))


def command(
    data: str, model_of: str, seed: int, folder: Path, args: argparse.Namespace, variant: str = ""
) -> list[str]:
    """Command line of one run in a process of its own."""
    overrides = [
        f"train.output_dir={folder}",
        f"train.seed={seed}",
        f"train.max_iter={args.iterations}",
        f"train.eval_period={args.iterations}",
        "train.amp.enabled=False",
        *args.overrides,
    ]
    if data == "nuclei":
        for split, file in (("train", "train.json"), ("test", "val.json")):
            names = f"coco:{args.nuclei / file}:{args.nuclei / 'images'}"
            overrides.append(f"dataloader.{split}.dataset.names={names}")
    program = [sys.executable, __file__, "--train", model_of, str(seed), variant]
    return [*program, "--config-file", str(ROOT / CONFIGS[data]), *overrides]


def differences(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> list[float]:
    """The largest difference of any loss, for each iteration."""
    return [max(abs(a[name] - b[name]) for name in a) for a, b in zip(ours, theirs, strict=True)]


def apart(one: Path, other: Path) -> str:
    """The largest difference of any loss of the first iterations of two runs."""
    losses = [json.loads((folder / LOSSES).read_text())[:FIRST] for folder in (one, other)]
    return f"{max(differences(*losses)):.1e}"


def report(runs: Mapping[tuple[str, str, int], Path], output: Path) -> str:
    """Markdown of all finished pairs of runs; those of VARIANTS lie beside them, under their names."""
    rows = []
    for data, seed in sorted({(data, seed) for data, _, seed in runs}):
        if any((data, model_of, seed) not in runs for model_of in MODELS):
            continue
        theirs, ours = (runs[data, model_of, seed] for model_of in MODELS)
        compared = [
            apart(beside(theirs, FLOAT64), beside(ours, FLOAT64)),
            apart(theirs, ours),
            apart(theirs, beside(theirs, NUDGED)),
        ]
        results = [read_run(folder) for folder in (theirs, ours)]
        for task in results[0]:
            before, after = (result[task]["AP"] for result in results)
            rows.append(
                [
                    data,
                    seed,
                    *compared,
                    TASKS[task],
                    f"{before:.1f}",
                    f"{after:.1f}",
                    f"{after - before:+.1f}",
                ]
            )
    header = [
        "data",
        "seed",
        f"losses of {FIRST} iterations apart by, float64",
        "float32",
        "Detectron2 from weights changed in the last bit",
        "AP of",
        *MODELS.values(),
        "difference",
    ]
    text = tabulate(rows, header, tablefmt="pipe", disable_numparse=True) + "\n\n" + spread(rows)
    write_atomically(output / "equivalence.md", text.encode())
    return text


def beside(folder: Path, variant: str) -> Path:
    """Folder of a variant of a run."""
    return folder.with_name(f"{folder.name}-{variant}")


def spread(rows: Sequence[Sequence]) -> str:
    """What seeds alone change, beside what the package changes: means over the pairs of a set and task."""
    lines = []
    for data, task in dict.fromkeys((row[0], row[5]) for row in rows):
        chosen = [row for row in rows if (row[0], row[5]) == (data, task)]
        theirs = [float(row[6]) for row in chosen]
        if len(theirs) < 2:
            continue
        mean = statistics.fmean(float(row[8]) for row in chosen)
        between = max(theirs) - min(theirs)
        lines.append(
            f"{data}, {task}: {mean:+.1f} AP on average; Detectron2's seeds are {between:.1f} AP apart."
        )
    return "\n".join(lines) + "\n"


def draw(runs: Mapping[tuple[str, str, int], Path], output: Path) -> None:
    """equivalence.png: total loss of both, a panel for each set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = list(dict.fromkeys(data for data, _, _ in runs))
    figure, panels = pyplot.subplots(1, len(sets), figsize=(5.5 * len(sets), 3.6), squeeze=False)
    for panel, data in zip(panels[0], sets):
        for (name, model_of, seed), folder in sorted(runs.items()):
            if name != data:
                continue
            totals = [sum(losses.values()) for losses in json.loads((folder / LOSSES).read_text())]
            smooth = [statistics.fmean(totals[max(0, i - 9) : i + 1]) for i in range(len(totals))]
            panel.plot(
                smooth,
                color=f"C{seed}",
                linewidth=3.5 if model_of == "detectron2" else 1.2,
                alpha=0.35 if model_of == "detectron2" else 1.0,
                label=f"{MODELS[model_of]}, seed {seed}",
            )
        panel.set(title=data, xlabel="iteration", ylabel="total loss, mean of 10 iterations")
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(output / "equivalence.png", dpi=150)


def run(
    data: str, model_of: str, seed: int, folder: Path, args: argparse.Namespace, variant: str = ""
) -> int:
    """Trains in a process of its own unless that is done; returns its exit status."""
    if variant:
        folder = beside(folder, variant)
    if (folder / LOSSES).exists():
        return 0
    print(f"{data}, {MODELS[model_of]}, seed {seed}{variant and ', ' + variant}: {folder}", flush=True)
    return subprocess.run(command(data, model_of, seed, folder, args, variant)).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nuclei", type=Path, metavar="DIR", help="left out: the built-in shapes only")
    parser.add_argument("--only", choices=CONFIGS, help="one of the sets")
    parser.add_argument("--iterations", type=positive, default=200, metavar="N")
    parser.add_argument("--seeds", type=positive, default=2, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("output/equivalence"), metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override of every run's config")
    args = parser.parse_intermixed_args(arguments)
    args.nuclei = args.nuclei and args.nuclei.resolve()
    sets = [args.only] if args.only else ["nuclei", "shapes"] if args.nuclei else ["shapes"]
    runs: dict[tuple[str, str, int], Path] = {}
    for data in sets:
        for seed in range(args.seeds):
            # The plugin's first: the other starts from its initial weights.
            for model_of in reversed(MODELS):
                folder = args.output.resolve() / data / f"{model_of}-seed{seed}"
                for variant in ("", *VARIANTS[model_of]):
                    status = run(data, model_of, seed, folder, args, variant)
                    if status:
                        return status
                runs[data, model_of, seed] = folder
            text = report(runs, args.output)
    draw(runs, args.output)
    print(text)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        sys.exit(train_one(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:]))
    sys.exit(main())
