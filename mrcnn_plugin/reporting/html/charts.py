"""The charts of report.html, as figures of plotly: a name -> figure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn_plugin.data import CocoSummary
from mrcnn_plugin.evaluation.analysis.coco_scores import CocoScores, Group
from mrcnn_plugin.evaluation.analysis.error_types import ERROR_NAMES, ErrorTypes
from mrcnn_plugin.evaluation.analysis.matching import Matches
from mrcnn_plugin.evaluation.analysis.operating_point import BestThresholds, Calibration, f1_curve

from ..curves import Metrics

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, MUTED, GRID, FAINT = "#1f2933", "#5b6773", "#e5e9ee", "#c9d5f5"
ACCENT, SECOND = "#2f5fd0", "#e0762f"
COLORS = (ACCENT, SECOND, "#2b9a66", "#8a57c7", "#c8386f", "#1292a5", "#a8851a", "#6b7280", "#7a4b2b", "#5d9c1f")
#: Of TIDE's types, and of what is correct, in charts and on pictures alike.
ERROR_COLORS = dict(zip(ERROR_NAMES, ("#8a57c7", "#e08a1e", "#a3672a", "#1292a5", "#6b7280", "#d43d3d")))
CORRECT_COLOR = "#2b9a66"
TASK_NAMES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
# A curve of more points than this is drawn as the means of so many stretches.
_MAX_POINTS = 1000
_MAX_CLASS_CURVES = 10
_MAX_CONFUSED = 40
_MAX_CLASS_BARS = 60
_VALIDATION = re.compile(r"(^|[_/])val(id|idation)?[_/]")


def training_charts(metrics: Metrics) -> dict[str, Figure]:
    """Losses (with those of validation, dashed), AP and learning rate, as far as they were written."""
    charts = {}
    losses = {name: curve for name, curve in metrics.items() if "loss" in name and curve}
    if losses:
        charts["losses"] = _losses(losses)
    aps = {name: curve for name, curve in metrics.items() if name.rpartition("/")[2] in ("AP", "AP50") and curve}
    if aps:
        charts["aps"] = _aps(aps)
    if metrics.get("lr"):
        rate = _figure(_line(metrics["lr"], "learning rate", INK), x="iteration", y="learning rate", height=300)
        charts["rate"] = rate.update_layout(showlegend=False).update_yaxes(rangemode="tozero", exponentformat="e")
    return charts


def task_charts(
    scores: CocoScores,
    matches: Matches,
    errors: ErrorTypes,
    thresholds: BestThresholds,
    calibrated: Calibration,
    confused: np.ndarray,
    groups: Mapping[str, Sequence[Group]],
    class_names: Sequence[str],
) -> dict[str, Figure]:
    """The charts of one task."""
    charts = {
        "precision-recall": _precision_recall(scores),
        "thresholds": _thresholds(matches),
        "calibration": _calibration(calibrated),
        "errors": _errors(errors),
        "confusion": _confusion(confused, class_names),
        "groups": _groups(groups),
    }
    if len(class_names) > 1:
        charts["class-curves"] = _class_curves(scores, matches, class_names)
    return charts


def data_charts(summaries: Mapping[str, CocoSummary]) -> dict[str, Figure]:
    """Instances of each class, and sizes of instances."""
    return {"data-classes": _data_classes(summaries), "data-sizes": _data_sizes(summaries)}


def _figure(*traces: Any, x: str = "", y: str = "", height: int = 340) -> Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": "#aab4bf", "ticks": "", "automargin": True}
    figure = go.Figure(
        data=traces,
        layout={
            # An empty template: the default one is longer than the chart.
            "template": go.layout.Template(),
            "colorway": COLORS,
            "font": {"family": "Inter, system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 12, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 56, "r": 16, "t": 16, "b": 44},
            "height": height,
            "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#aab4bf", "activecolor": MUTED},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
        },
    )
    figure.update_xaxes(title_text=x, title_font_color=MUTED, **axis)
    return figure.update_yaxes(title_text=y, title_font_color=MUTED, **axis)


def _line(curve: Mapping[int, float], name: str, color: str | None = None, **line: Any) -> Any:
    import plotly.graph_objects as go

    points = np.array(sorted(curve.items()), float)
    if len(points) > _MAX_POINTS:
        points = np.stack([part.mean(axis=0) for part in np.array_split(points, _MAX_POINTS)])
    return go.Scatter(
        x=points[:, 0],
        y=points[:, 1],
        name=name,
        # Few points need a marker: a line alone would hide how few they are, and a single one altogether.
        mode="lines+markers" if len(points) <= 15 else "lines",
        line={"color": color, **line},
        hovertemplate="%{y:.4g} at %{x:.0f}<extra>" + name + "</extra>",
    )


def _losses(losses: Mapping[str, Mapping[int, float]]) -> Figure:
    training = sorted((name for name in losses if not _VALIDATION.search(name)), key=lambda n: (n != "total_loss", n))
    validation = sorted(name for name in losses if _VALIDATION.search(name))
    traces, color_of = [], {}
    for index, name in enumerate(training):
        plain = _plain_loss(name)
        color_of[plain] = INK if name == "total_loss" else COLORS[(index - 1) % len(COLORS)]
        traces.append(_line(losses[name], plain, color_of[plain], width=2.4 if name == "total_loss" else 1.5))
    for name in validation:
        plain = _plain_loss(name)
        color = color_of.get(plain, COLORS[-1])
        traces.append(_line(losses[name], f"validation: {plain}", color, width=1.8, dash="dot"))
    figure = _figure(*traces, x="iteration", y="loss", height=400)
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
        traces.append(_line(aps[name], label, color, **style))
    figure = _figure(*traces, x="iteration", y="AP on the test set", height=300)
    return figure.update_yaxes(rangemode="tozero")


def _precision_recall(scores: CocoScores) -> Figure:
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale

    curves = scores.mean_curves()
    colors = sample_colorscale(["#10306f", "#2f5fd0", "#a9c1f2"], np.linspace(0, 1, len(curves)).tolist())
    what = "OKS" if scores.task == "keypoints" else "IoU"
    traces = [
        go.Scatter(
            x=scores.recalls,
            y=curve,
            name=f"{iou:.2f}",
            line={"color": color, "width": 2},
            hovertemplate="precision %{y:.2f} at recall %{x:.2f}<extra>" + f"{what} {iou:.2f}" + "</extra>",
        )
        for iou, curve, color in zip(scores.ious, curves, colors)
    ]
    figure = _figure(*traces, x="recall", y="precision", height=380)
    return _unit_axes(figure).update_layout(legend_title_text=f"{what} ")


def _class_curves(scores: CocoScores, matches: Matches, class_names: Sequence[str]) -> Figure:
    """At the lowest IoU, of the classes with most annotations."""
    import plotly.graph_objects as go

    frequent = np.argsort(-matches.truths_per_class, kind="stable")[:_MAX_CLASS_CURVES]
    traces = [
        go.Scatter(
            x=scores.recalls,
            y=scores.precision[0, :, index],
            name=class_names[index],
            line={"width": 1.8},
            hovertemplate="precision %{y:.2f} at recall %{x:.2f}<extra>" + class_names[index] + "</extra>",
        )
        for index in frequent
        if matches.truths_per_class[index]
    ]
    return _unit_axes(_figure(*traces, x="recall", y="precision", height=380))


def _unit_axes(figure: Figure) -> Figure:
    figure.update_xaxes(range=[0, 1.005], dtick=0.2)
    return figure.update_yaxes(range=[0, 1.02], dtick=0.2)


def _thresholds(matches: Matches) -> Figure:
    import plotly.graph_objects as go

    thresholds = np.linspace(0, 1, 101)
    traces = [
        go.Scatter(x=thresholds, y=values, name=name, line={"color": color, "width": width})
        for values, name, color, width in zip(
            f1_curve(matches, thresholds), ("precision", "recall", "F1"), (ACCENT, SECOND, INK), (1.6, 1.6, 2.4)
        )
    ]
    figure = _figure(*traces, x="score threshold", y="")
    return _unit_axes(figure).update_layout(hovermode="x unified").update_traces(hovertemplate="%{y:.3f}")


def _calibration(calibrated: Calibration) -> Figure:
    import plotly.graph_objects as go

    centres = (calibrated.edges[:-1] + calibrated.edges[1:]) / 2
    width = calibrated.edges[1] - calibrated.edges[0]
    hover = "score %{customdata[0]:.2f}: %{y:.0%} of %{customdata[1]:,} detections are correct<extra></extra>"
    figure = _figure(
        go.Bar(
            x=centres,
            y=calibrated.precision,
            width=width * 0.94,
            marker={"color": ACCENT, "opacity": 0.85},
            customdata=np.stack([calibrated.confidence, calibrated.count], axis=1),
            hovertemplate=hover,
            name="correct",
        ),
        go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"color": MUTED, "dash": "dot"}, name="ideal", hoverinfo="skip"
        ),
        go.Bar(
            x=centres,
            y=calibrated.count,
            width=width * 0.94,
            marker={"color": "#aab4bf"},
            yaxis="y2",
            hovertemplate="%{y:,} detections<extra></extra>",
            name="detections",
        ),
        x="score",
        y="part that is correct",
    )
    axis = figure.layout.yaxis.to_plotly_json()
    axis |= {"title": {"text": "detections", "font": {"color": MUTED}}, "domain": [0, 0.2], "nticks": 3}
    figure.update_xaxes(range=[0, 1], dtick=0.2)
    figure.update_yaxes(range=[0, 1.02], domain=[0.28, 1], dtick=0.2)
    return figure.update_layout(yaxis2=axis, showlegend=False, barmode="overlay", xaxis_anchor="y2")


def _errors(errors: ErrorTypes) -> Figure:
    import plotly.graph_objects as go

    names = [*ERROR_NAMES, "all false positives", "all false negatives"]
    costs = [*errors.cost, errors.false_positive_cost, errors.false_negative_cost]
    bars = go.Bar(
        x=costs,
        y=names,
        orientation="h",
        marker={"color": [*ERROR_COLORS.values(), "#aab4bf", "#aab4bf"]},
        text=[f"{cost:.2f}" for cost in costs],
        textposition="outside",
        outsidetextfont={"color": INK},
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f} AP<extra></extra>",
    )
    figure = _figure(bars, x="AP that is lost", height=300).update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_xaxes(range=[0, 1.12 * max(*costs, 1e-3)])


def _confusion(table: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Each row in parts of its sum; of many classes those that are confused most."""
    import plotly.graph_objects as go

    wrong = table.sum(axis=0)[:-1] + table.sum(axis=1)[:-1] - 2 * np.diag(table)[:-1]
    shown = np.arange(len(class_names))
    if len(shown) > _MAX_CONFUSED:
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_MAX_CONFUSED])
    names = [_shortened(class_names[index]) for index in shown] + ["background"]
    rows = np.maximum(table.sum(axis=1, keepdims=True), 1)
    kept = [*shown.tolist(), len(class_names)]
    parts, counts = (values[np.ix_(kept, kept)] for values in (table / rows, table))
    heat = go.Heatmap(
        z=parts,
        x=list(range(len(names))),
        y=list(range(len(names))),
        customdata=counts,
        zmin=0,
        zmax=1,
        colorscale=[[0, "#ffffff"], [0.02, "#eef3fd"], [0.3, "#a9c1f2"], [0.7, ACCENT], [1, "#10306f"]],
        hovertemplate="%{customdata:,} times: %{text}<extra></extra>",
        text=[[f"{name} taken for {other}" for other in names] for name in names],
        xgap=1,
        ygap=1,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickformat": ".0%", "len": 0.6},
    )
    side = 34 if len(names) <= 12 else 22 if len(names) <= 25 else 18
    figure = _figure(heat, x="detected as", y="annotated as", height=max(300, 150 + side * len(names)))
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "showgrid": False, "zeroline": False}
    ticks["tickfont"] = {"size": 12 if len(names) <= 12 else 10}
    figure.update_xaxes(**ticks, tickangle=0 if len(names) <= 4 else -45 if len(names) <= 12 else -90)
    figure.update_yaxes(**ticks, autorange="reversed")
    if len(names) <= 12:
        for (row, column), number in np.ndenumerate(counts):
            color = "white" if parts[row, column] > 0.5 else INK
            figure.add_annotation(x=column, y=row, text=f"{number:,}", showarrow=False, font={"color": color, "size": 11})
    return figure


def _shortened(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _groups(groups: Mapping[str, Sequence[Group]]) -> Figure:
    import plotly.graph_objects as go

    figure = _figure(height=360)
    axis = figure.layout.xaxis.to_plotly_json()
    gap, width = 0.04, (1 - 0.04 * (len(groups) - 1)) / len(groups)
    for index, (title, members) in enumerate(groups.items()):
        number = "" if index == 0 else str(index + 1)
        names = [group.name for group in members]
        for label, values, color in (
            ("AP", [group.ap for group in members], ACCENT),
            ("AP50", [group.ap50 for group in members], FAINT),
        ):
            figure.add_bar(
                x=names,
                y=values,
                name=label,
                marker={"color": color},
                xaxis=f"x{number}",
                showlegend=index == 0,
                customdata=[group.objects for group in members],
                hovertemplate=f"{label} " + "%{y:.1f} of %{customdata:,} objects<extra>%{x}</extra>",
            )
        domain = [index * (width + gap), index * (width + gap) + width]
        title_of_axis = {"text": title, "font": {"color": MUTED}}
        own = axis | {"domain": domain, "title": title_of_axis, "type": "category", "showgrid": False, "tickangle": -30}
        figure.update_layout({f"xaxis{number}": own | {"anchor": "y"}})
    return figure.update_yaxes(title_text="AP", rangemode="tozero").update_layout(barmode="group", bargap=0.25)


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
            y=[_shortened(name) for name in shown],
            orientation="h",
            name=title,
            hovertemplate="%{y}: %{x:,} instances<extra>" + title + "</extra>",
        )
        traces.append(bar)
    figure = _figure(*traces, x="instances", height=110 + (14 + 8 * len(traces)) * len(shown))
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
    figure = _figure(*traces, x="√(box area) / shorter side of the image", y="part of the instances")
    figure.update_xaxes(rangemode="tozero")
    return figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
