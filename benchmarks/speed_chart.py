"""Seconds per picture of several contestants, kept as JSON and drawn as bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mrcnn_plugin.atomic_files import write_atomically

# One colour each, whatever takes part.
_COLORS = {
    "Detectron2": "#9a9a9a",
    "torchvision": "#c2b280",
    "ours": "#a6c8e4",
    "optimized": "#2f7fc1",
    "optimized bfloat16": "#0b4f8a",
    "ONNX Runtime": "#e3b7c8",
    "OpenVINO": "#7fbf7b",
    "OpenVINO int8": "#1b7837",
    "AOTInductor": "#af8dc3",
}


def add(path: Path, titles: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Adds a table to a JSON file, in place of one of the same title: {title: {row: {column: text}}}."""
    tables = json.loads(path.read_text()) if path.exists() else {}
    for title in titles:
        tables[title] = {row[0]: dict(zip(columns[1:], row[1:])) for row in rows}
    write_atomically(path, json.dumps(tables, indent=1).encode())


def draw(tables: dict[str, dict[str, dict[str, str]]], path: Path) -> None:
    """A panel for each table; in it a bar for each row, with its seconds and how often it is as fast."""
    figure, panels = plt.subplots(
        1, len(tables), figsize=(3.1 * len(tables), 2.9), squeeze=False, layout="constrained"
    )
    for panel, (title, table) in zip(panels[0], tables.items()):
        names = list(table)
        seconds = [float(row["s per picture"]) for row in table.values()]
        places = range(len(names))
        panel.barh(places, seconds, color=[_COLORS.get(name, "#777777") for name in names])
        panel.set_yticks(places, names, fontsize=8)
        panel.invert_yaxis()
        panel.set_xlim(0, 1.35 * max(seconds))
        panel.set_title(title.replace(", ", "\n", 1), fontsize=8)
        panel.tick_params(axis="x", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        for place, name, value in zip(places, names, seconds):
            panel.text(value, place, f" {value:.2f} s, {table[name]['ratio']}x", va="center", fontsize=7)
    figure.supxlabel("seconds per picture", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
