"""What the charts of report.html have in common: colours, axes, lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn_plugin.evaluation.analysis.error_types import ERROR_NAMES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, MUTED, GRID, FAINT = "#1f2933", "#5b6773", "#e5e9ee", "#c9d5f5"
ACCENT, SECOND = "#2f5fd0", "#e0762f"
COLORS = (
    ACCENT,
    SECOND,
    "#2b9a66",
    "#8a57c7",
    "#c8386f",
    "#1292a5",
    "#a8851a",
    "#6b7280",
    "#7a4b2b",
    "#5d9c1f",
)
#: Of TIDE's types, and of what is correct, in charts and on pictures alike.
ERROR_COLORS = dict(zip(ERROR_NAMES, ("#8a57c7", "#e08a1e", "#a3672a", "#1292a5", "#6b7280", "#d43d3d")))
CORRECT_COLOR = "#2b9a66"
TASK_NAMES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
# A curve of more points than this is drawn as the means of so many stretches.
_MAX_POINTS = 1000


def new_figure(*traces: Any, x: str = "", y: str = "", height: int = 340) -> Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": "#aab4bf", "ticks": "", "automargin": True}
    figure = go.Figure(
        data=traces,
        layout={
            # An empty template: the default one is longer than the chart.
            "template": go.layout.Template(),
            "colorway": COLORS,
            "font": {
                "family": "Inter, system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif",
                "size": 12,
                "color": INK,
            },
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


def line(curve: Mapping[int, float], name: str, color: str | None = None, **line: Any) -> Any:
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


def shortened(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
