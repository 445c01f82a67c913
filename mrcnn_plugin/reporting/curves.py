"""curves.png: losses, AP and learning rate of a run, read from its metrics.json."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from mrcnn_plugin.atomic_files import replacing

#: Scalar name -> {iteration: value}.
Metrics = Mapping[str, Mapping[int, float]]

_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
_VALIDATION = "validation/"
# Losses that span more than this factor are legible on a logarithmic axis only.
_LOG_SPAN = 12


def read_metrics(path: str) -> Metrics:
    """Every scalar of a metrics.json, by iteration.

    A run that was killed and resumed from an older checkpoint has written some iterations twice: the later
    line counts. A last line that was cut off is left out.
    """
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    with open(path) as file:
        for line in file:
            try:
                scalars = json.loads(line)
            except json.JSONDecodeError:
                continue
            iteration = scalars.pop("iteration")
            for name, value in scalars.items():
                if math.isfinite(value):
                    metrics[name][iteration] = value
    return metrics


def plot_curves(metrics: Metrics, path: str, title: str = "") -> None:
    """Writes `curves_figure` as a PNG."""
    figure = curves_figure(metrics, title)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def curves_figure(metrics: Metrics, title: str = "") -> Figure:
    """A panel each for the losses, the AP of every task (if it was evaluated) and the learning rate.

    Losses on the test set, "validation/NAME", are dashed lines of the training loss's colour.
    """
    aps = {name: curve for name, curve in metrics.items() if name.rpartition("/")[2] == "AP" and curve}
    panels = [_plot_losses, *([_plot_aps] if aps else []), *([_plot_rate] if metrics.get("lr") else [])]
    figure = Figure(figsize=(5.2 * len(panels), 4.0), layout="constrained", dpi=110)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        panel(axes, metrics)
        axes.set_xlabel("iteration")
        axes.set_xlim(0, 1.02 * max((max(curve) for curve in metrics.values() if curve), default=0) + 1)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def _line(axes: Axes, curve: Mapping[int, float], **style) -> None:
    iterations = sorted(curve)
    # Few points need a marker: a line alone would hide how few they are, and a single one altogether.
    marker = "o" if len(iterations) <= 12 else None
    axes.plot(iterations, [curve[i] for i in iterations], marker=marker, markersize=3.5, **style)


def _plot_losses(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("Losses", fontsize=10)
    losses = [name for name in metrics if "loss" in name and not name.startswith(_VALIDATION)]
    parts = sorted(name for name in losses if name != "total_loss")
    styles = {"total_loss": {"color": "black", "linewidth": 1.8, "label": "total"}}
    for index, name in enumerate(parts):
        styles[name] = {"color": f"C{index}", "linewidth": 1.1, "label": name.removeprefix("loss_")}
    for name, style in styles.items():
        if metrics.get(name):
            _line(axes, metrics[name], **style)
        on_test_set = metrics.get(_VALIDATION + name)
        if on_test_set:
            label = "total, test set" if name == "total_loss" else None
            _line(axes, on_test_set, **{**style, "linestyle": "--", "label": label})
    shown = [name for name in metrics if "loss" in name]
    values = [value for name in shown for value in metrics[name].values()]
    if values and min(values) > 0 and max(values) / min(values) > _LOG_SPAN:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    if values:
        axes.legend(fontsize=8, frameon=False, ncols=2)


def _plot_aps(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("AP on the test set", fontsize=10)
    for name in sorted(metrics):
        prefix, _, metric = name.rpartition("/")
        if metric in ("AP", "AP50") and metrics[name]:
            task = prefix.rpartition("/")[2]
            color = f"C{list(_TASKS).index(task)}" if task in _TASKS else None
            style = {"linewidth": 1.8} if metric == "AP" else {"linewidth": 1.0, "linestyle": "--"}
            label = f"{prefix.removesuffix(task)}{_TASKS.get(task, task)} {metric}"
            _line(axes, metrics[name], color=color, label=label, **style)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8, frameon=False, loc="best")


def _plot_rate(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("Learning rate", fontsize=10)
    _line(axes, metrics["lr"], color="black", linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
