"""The charts of report.html about the results of a task, as figures of plotly: a name -> figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_plugin.evaluation.analysis.coco_scores import CocoScores, Group
from mrcnn_plugin.evaluation.analysis.error_types import ERROR_NAMES, ErrorTypes
from mrcnn_plugin.evaluation.analysis.matching import Matches
from mrcnn_plugin.evaluation.analysis.operating_point import BestThresholds, Calibration, f1_curve

from .figures import ACCENT, ERROR_COLORS, FAINT, INK, MUTED, SECOND, new_figure, shortened

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MAX_CLASS_CURVES = 10
_MAX_CONFUSED = 40


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
    figure = new_figure(*traces, x="recall", y="precision", height=380)
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
    return _unit_axes(new_figure(*traces, x="recall", y="precision", height=380))


def _unit_axes(figure: Figure) -> Figure:
    figure.update_xaxes(range=[0, 1.005], dtick=0.2)
    return figure.update_yaxes(range=[0, 1.02], dtick=0.2)


def _thresholds(matches: Matches) -> Figure:
    import plotly.graph_objects as go

    thresholds = np.linspace(0, 1, 101)
    traces = [
        go.Scatter(x=thresholds, y=values, name=name, line={"color": color, "width": width})
        for values, name, color, width in zip(
            f1_curve(matches, thresholds),
            ("precision", "recall", "F1"),
            (ACCENT, SECOND, INK),
            (1.6, 1.6, 2.4),
        )
    ]
    figure = new_figure(*traces, x="score threshold", y="")
    return _unit_axes(figure).update_layout(hovermode="x unified").update_traces(hovertemplate="%{y:.3f}")


def _calibration(calibrated: Calibration) -> Figure:
    import plotly.graph_objects as go

    centres = (calibrated.edges[:-1] + calibrated.edges[1:]) / 2
    width = calibrated.edges[1] - calibrated.edges[0]
    hover = "score %{customdata[0]:.2f}: %{y:.0%} of %{customdata[1]:,} detections are correct<extra></extra>"
    figure = new_figure(
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
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line={"color": MUTED, "dash": "dot"},
            name="ideal",
            hoverinfo="skip",
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
    figure = new_figure(bars, x="AP that is lost", height=300).update_yaxes(
        autorange="reversed", showgrid=False
    )
    return figure.update_xaxes(range=[0, 1.12 * max(*costs, 1e-3)])


def _confusion(table: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Each row in parts of its sum; of many classes those that are confused most."""
    import plotly.graph_objects as go

    wrong = table.sum(axis=0)[:-1] + table.sum(axis=1)[:-1] - 2 * np.diag(table)[:-1]
    shown = np.arange(len(class_names))
    if len(shown) > _MAX_CONFUSED:
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_MAX_CONFUSED])
    names = [shortened(class_names[index]) for index in shown.tolist()] + ["background"]
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
    figure = new_figure(heat, x="detected as", y="annotated as", height=max(300, 150 + side * len(names)))
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "showgrid": False, "zeroline": False}
    ticks["tickfont"] = {"size": 12 if len(names) <= 12 else 10}
    figure.update_xaxes(**ticks, tickangle=0 if len(names) <= 4 else -45 if len(names) <= 12 else -90)
    figure.update_yaxes(**ticks, autorange="reversed", title_standoff=12)
    if len(names) <= 12:
        for (row, column), number in np.ndenumerate(counts):
            color = "white" if parts[row, column] > 0.5 else INK
            figure.add_annotation(
                x=column, y=row, text=f"{number:,}", showarrow=False, font={"color": color, "size": 11}
            )
    return figure


def _groups(groups: Mapping[str, Sequence[Group]]) -> Figure:

    figure = new_figure(height=360)
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
        own = axis | {
            "domain": domain,
            "title": title_of_axis,
            "type": "category",
            "showgrid": False,
            "tickangle": -30,
        }
        figure.update_layout({f"xaxis{number}": own | {"anchor": "y"}})
    return figure.update_yaxes(title_text="AP", rangemode="tozero").update_layout(
        barmode="group", bargap=0.25
    )
