"""What a process holds while it trains or predicts for long; prints the figures as JSON, and draws them.

memory_growth.py FOLDER train|predict COUNT [PLOT.png]

A hundred times in the run what was freed is collected and handed back to the system; then the resident
memory is what the process still needs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

# Before Detectron2: it applies what that needs on a current stack.
import mrcnn_plugin  # noqa: F401

# isort: split

import process_memory
from drills.forked import shapes
from helpers.tiny_runs import tiny_arguments
from matplotlib.figure import Figure

from mrcnn_plugin.predict import Predictor
from mrcnn_plugin.predict import argument_parser as predict_parser
from mrcnn_plugin.predict import main as predict
from mrcnn_plugin.train import argument_parser, main
from mrcnn_plugin.train.trainer import Trainer

CONFIG = Path(__file__).with_name("small_mask_rcnn.py")
_SAMPLES = 100
# Of the samples: what comes later must not be more than what these hold.
_FIRST = 0.1


class Watch:
    """Counts calls of a method, and notes every so often what the process holds."""

    def __init__(self, owner: type, name: str, every: int) -> None:
        self.counts: list[int] = []
        self.resident: list[int] = []
        self._calls, self._every = 0, every
        self._watch(owner, name, getattr(owner, name))

    def _watch(self, owner: type, name: str, method: Callable) -> None:
        def watched(instance: object, *args: object, **kwargs: object) -> object:
            result = method(instance, *args, **kwargs)
            self._calls += 1
            if self._calls % self._every == 0:
                self.counts.append(self._calls)
                self.resident.append(process_memory.settled())
            return result

        setattr(owner, name, watched)

    def figures(self) -> dict:
        """In MB: medians, as a step's own tensors come and go."""
        values = [size / process_memory.MB for size in self.resident]
        first = round(len(values) * _FIRST)
        early, late = statistics.median(values[first : 2 * first]), statistics.median(values[-first:])
        line = statistics.linear_regression(self.counts[first:], values[first:])
        return {
            "calls": self._calls,
            "samples": len(values),
            "MB after a tenth": round(early, 1),
            "MB at the end": round(late, 1),
            "peak of samples": round(max(values), 1),
            "growth": round(late - early, 1),
            "MB per 1000 calls": round(1000 * line.slope, 2),
        }

    def draw(self, path: str, title: str) -> None:
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.add_subplot(xlabel=title, ylabel="resident MB")
        resident = [size / process_memory.MB for size in self.resident]
        axes.plot(self.counts, resident)
        axes.set_ylim(0, 1.2 * max(resident))
        figure.savefig(path, dpi=110)


def train_for_long(folder: Path, steps: int) -> Watch:
    """With a checkpoint and an evaluation now and then."""
    arguments = tiny_arguments(shapes(folder, images=24), folder / "run", f"train.max_iter={steps}")
    arguments[arguments.index("--config-file") + 1] = str(CONFIG)
    periods = [f"train.checkpointer.period={steps // 20}", f"train.eval_period={steps // 10}"]
    watch = Watch(Trainer, "run_step", max(1, steps // _SAMPLES))
    args = argument_parser().parse_intermixed_args(
        [*arguments, *periods, "train.checkpointer.max_to_keep=2", "train.log_period=10"]
    )
    assert main(args) == 0
    return watch


def predict_for_long(folder: Path, pictures: int) -> Watch:
    """Overlays and results of so many files, by the program."""
    data = shapes(folder, images=50)
    arguments = tiny_arguments(data, folder / "run", "dataloader.evaluator=null")
    arguments[arguments.index("--config-file") + 1] = str(CONFIG)
    assert main(argument_parser().parse_intermixed_args(arguments)) == 0
    images = sorted(Path(data["val"].rpartition(":")[2]).iterdir())
    (folder / "many").mkdir()
    for number in range(pictures):
        os.link(images[number % len(images)], folder / "many" / f"{number:05d}.png")
    watch = Watch(Predictor, "detect", max(1, pictures // _SAMPLES))
    options = ["--run", str(folder / "run"), "--output", str(folder / "out"), "--score-threshold", "0"]
    assert predict(predict_parser().parse_args([str(folder / "many"), *options])) == 0
    return watch


def drill(folder: Path, what: str, count: int, plot: str = "") -> dict:
    watch = {"train": train_for_long, "predict": predict_for_long}[what](folder, count)
    if plot:
        watch.draw(plot, {"train": "training steps", "predict": "pictures"}[what])
    return watch.figures()


if __name__ == "__main__":
    folder, what, count, *plot = sys.argv[1:]
    print(json.dumps(drill(Path(folder), what, int(count), *plot)))
