"""The charts of report.html about training and data, as figures of plotly: a name -> figure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_plugin.data import CocoSummary

from ..curves import Metrics
from .figures import COLORS, INK, TASK_NAMES, line, new_figure, shortened

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_VALIDATION = re.compile(r"(^|[_/])val(id|idation)?[_/]")
_MAX_CLASS_BARS = 60


def training_charts(metrics: Metrics) -> dict[str, Figure]:
    """Losses (with those of validation, dashed), AP and learning rate, as far as they were written."""
    charts = {}
    losses = {name: curve for name, curve in metrics.items() if "loss" in name and curve}
    if losses:
        charts["losses"] = _losses(losses)
    aps = {
        name: curve for name, curve in metrics.items() if name.rpartition("/")[2] in ("AP", "AP50") and curve
    }
    if aps:
        charts["aps"] = _aps(aps)
    if metrics.get("lr"):
        rate = new_figure(
            line(metrics["lr"], "learning rate", INK), x="iteration", y="learning rate", height=300
        )
        charts["rate"] = rate.update_layout(showlegend=False).update_yaxes(
            rangemode="tozero", exponentformat="e"
        )
    return charts


def data_charts(summaries: Mapping[str, CocoSummary]) -> dict[str, Figure]:
    """Instances of each class, and sizes of instances."""
    return {"data-classes": _data_classes(summaries), "data-sizes": _data_sizes(summaries)}


def _losses(losses: Mapping[str, Mapping[int, float]]) -> Figure:
    training = sorted(
        (name for name in losses if not _VALIDATION.search(name)), key=lambda n: (n != "total_loss", n)
    )
    validation = sorted(name for name in losses if _VALIDATION.search(name))
    traces, color_of = [], {}
    for index, name in enumerate(training):
        plain = _plain_loss(name)
        color_of[plain] = INK if name == "total_loss" else COLORS[(index - 1) % len(COLORS)]
        traces.append(line(losses[name], plain, color_of[plain], width=2.4 if name == "total_loss" else 1.5))
    for name in validation:
        plain = _plain_loss(name)
        color = color_of.get(plain, COLORS[-1])
        traces.append(line(losses[name], f"validation: {plain}", color, width=1.8, dash="dot"))
    figure = new_figure(*traces, x="iteration", y="loss", height=400)
    values = [value for curve in losses.values() for value in curve.values()]
    if min(values) > 0 and max(values) > 12 * min(values):
        decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:.5g}" for tick in ticks])
    return figure


def _plain_loss(name: str) -> str:
    """loss_rpn_cls, validation/loss_rpn_cls -> rpn_cls; the sum of all -> total."""
    plain = _VALIDATION.sub(r"\1", name).rpartition("/")[2]
    return "total" if plain in ("total_loss", "loss") else plain.removeprefix("loss_")


def _aps(aps: Mapping[str, Mapping[int, float]]) -> Figure:
    traces = []
    for name in sorted(aps):
        prefix, _, metric = name.rpartition("/")
        task = prefix.rpartition("/")[2]
        color = COLORS[list(TASK_NAMES).index(task)] if task in TASK_NAMES else None
        label = f"{prefix.removesuffix(task)}{TASK_NAMES.get(task, task)} {metric}"
        style = {"width": 2.4} if metric == "AP" else {"width": 1.4, "dash": "dash"}
        traces.append(line(aps[name], label, color, **style))
    figure = new_figure(*traces, x="iteration", y="AP on the test set", height=300)
    return figure.update_yaxes(rangemode="tozero")


def _data_classes(summaries: Mapping[str, CocoSummary]) -> Figure:
    import plotly.graph_objects as go

    names: dict[str, int] = {}
    for summary in summaries.values():
        for name, counts in zip(summary.class_names, summary.classes):
            names[name] = names.get(name, 0) + counts.instances
    shown = sorted(names, key=lambda name: -names[name])[:_MAX_CLASS_BARS]
    traces = []
    for title, summary in summaries.items():
        of_class = {name: counts.instances for name, counts in zip(summary.class_names, summary.classes)}
        bar = go.Bar(
            x=[of_class.get(name, 0) for name in shown],
            y=[shortened(name) for name in shown],
            orientation="h",
            name=title,
            hovertemplate="%{y}: %{x:,} instances<extra>" + title + "</extra>",
        )
        traces.append(bar)
    figure = new_figure(*traces, x="instances", height=110 + (14 + 8 * len(traces)) * len(shown))
    return figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1).update_layout(bargap=0.3)


def _data_sizes(summaries: Mapping[str, CocoSummary]) -> Figure:
    import plotly.graph_objects as go

    traces = [
        go.Scatter(
            x=summary.relative_sizes,
            y=np.linspace(0, 1, len(summary.relative_sizes)),
            name=title,
            line={"width": 2},
            hovertemplate="%{y:.0%} are smaller than %{x:.3f}<extra>" + title + "</extra>",
        )
        for title, summary in summaries.items()
        if summary.relative_sizes
    ]
    figure = new_figure(*traces, x="√(box area) / shorter side of the image", y="part of the instances")
    figure.update_xaxes(rangemode="tozero")
    return figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
