"""Puts the page together: analyses of each task, charts, pictures and tables, in one HTML file."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.data import CocoSummary
from mrcnn_plugin.evaluation.analysis.coco_scores import CocoScores
from mrcnn_plugin.evaluation.analysis.error_types import ERROR_NAMES, ErrorTypes, error_types
from mrcnn_plugin.evaluation.analysis.matching import MATCH_IOU, Matches, match
from mrcnn_plugin.evaluation.analysis.operating_point import (
    BestThresholds,
    Calibration,
    best_thresholds,
    calibration,
    confusion,
)

from .charts import task_charts
from .figures import CORRECT_COLOR, ERROR_COLORS, TASK_NAMES
from .pictures import CORRECT, Picture, worst_pictures
from .run_charts import data_charts, training_charts
from .source import Source

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

logger = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).with_name("templates")
_ERROR_TEXTS = dict(
    zip(
        ERROR_NAMES,
        (
            "overlaps an object of another class",
            "right class, overlap between 0.1 and 0.5",
            "wrong class, and overlap between 0.1 and 0.5",
            "the object is already found by a higher score",
            "no object there: overlap of at most 0.1",
            "no detection is about the object",
        ),
    )
)


@dataclass
class TaskReport:
    """Everything about one task; see the modules of `mrcnn_plugin.evaluation.analysis` for its parts."""

    task: str
    mean: dict[str, float]
    rows: list[dict[str, Any]]
    matches: Matches
    errors: ErrorTypes
    thresholds: BestThresholds
    calibration: Calibration
    charts: dict[str, Figure]

    @property
    def name(self) -> str:
        return TASK_NAMES[self.task]


def analyse(source: Source, task: str) -> TaskReport:
    """Scores the results of one task and finds out where they go wrong."""
    assert source.ground_truth is not None
    options: dict[str, Any] = {"max_dets": source.max_dets, "sigmas": source.sigmas}
    scores = CocoScores(source.ground_truth, source.results, task, **options)
    rows: list[dict[str, Any]] = [dict(row) for row in scores.class_rows()]
    mean = scores.mean_row()
    matches = match(source.ground_truth, source.results, task, **options)
    names = class_names(source)
    errors, best, calibrated = error_types(matches), best_thresholds(matches), calibration(matches)
    groups = {
        "size (√area), px": scores.by_size(),
        "width : height of the box": scores.by_aspect_ratio(),
        "objects in the image": scores.by_crowding(),
    }
    for index, row in enumerate(rows):
        row |= {
            "name": names[index],
            "objects": int(matches.truths_per_class[index]),
            "F1": 100 * best.f1[index],
            "threshold": best.threshold[index],
            "precision": 100 * best.precision[index],
            "recall": 100 * best.recall[index],
        }
    confused = confusion(matches, best.threshold)
    figures = task_charts(scores, matches, errors, best, calibrated, confused, groups, names)
    return TaskReport(task, mean, rows, matches, errors, best, calibrated, figures)


def class_names(source: Source) -> list[str]:
    """Names of the categories in the order of their ids."""
    assert source.ground_truth is not None
    return [
        source.ground_truth.cats[i].get("name", f"category {i}") for i in sorted(source.ground_truth.cats)
    ]


def write_report(source: Source, path: str | os.PathLike) -> None:
    """Writes the page; about 5 MB, of which plotly.js is the most.

    Raises:
        DatasetError: see `mrcnn_plugin.reporting.html.source`.
    """
    write_atomically(Path(path), render(source).encode())


def render(source: Source) -> str:
    """The page as HTML."""
    import jinja2
    from plotly.offline import get_plotlyjs

    reasons = source.possible_tasks()
    notes = [f"No analysis of task {task}: {reason}." for task, reason in reasons.items() if reason]
    tasks = []
    for task in source.tasks:
        logger.info(f"Report: analysing {len(source.results)} detections, task {task}")
        tasks.append(analyse(source, task))
    figures = training_charts(source.metrics)
    if source.summaries:
        figures |= data_charts(source.summaries)
    figures |= {f"{task.task}-{name}": figure for task in tasks for name, figure in task.charts.items()}
    pictures, score_rows = _pictures(source, tasks), _score_rows(source.scores)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "grouped": lambda value: f"{value:,}"}
    return environment.get_template("report.html.j2").render(
        source=source,
        notes=[*source.notes, *notes, *_disagreements(source, tasks)],
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        tasks=tasks,
        score_rows=score_rows,
        # Evaluations that no analysis stands for: of averaged weights, of other test sets or kinds.
        others={name for name, _ in score_rows} - {task.task for task in tasks},
        charts=set(figures),
        charts_json=_script_json({name: _plain(figure) for name, figure in figures.items()}),
        pictures=pictures,
        has=_drawn_parts(pictures["list"]) if pictures else {},
        errors=[(name, ERROR_COLORS[name], _ERROR_TEXTS[name]) for name in ERROR_NAMES],
        kind_colors={**ERROR_COLORS, CORRECT: CORRECT_COLOR},
        match_iou=MATCH_IOU,
        data_table=_data_table(source.summaries),
        versions=_versions(),
        script=(_TEMPLATES / "report.js").read_text(encoding="utf-8"),
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _pictures(source: Source, tasks: Sequence[TaskReport]) -> dict[str, Any] | None:
    """The pictures with most errors in the finest of the tasks."""
    if not tasks or source.image_root is None or source.ground_truth is None:
        return None
    by_name = {task.task: task for task in tasks}
    task = next(by_name[name] for name in ("segm", "keypoints", "bbox") if name in by_name)
    found = worst_pictures(
        source.ground_truth,
        source.results,
        source.image_root,
        task.matches,
        task.errors,
        task.thresholds.threshold,
        class_names(source),
    )
    return {"task": task.name, "list": found} if found else None


def _drawn_parts(pictures: Sequence[Picture]) -> dict[str, bool]:
    """Which parts of shapes there are to switch."""
    shapes = [shape for picture in pictures for shape in (*picture.truths, *picture.detections)]
    return {
        "masks": any(shape.path for shape in shapes),
        "boxes": any(shape.box for shape in shapes),
        "points": any(shape.points for shape in shapes),
    }


def _plain(figure: Figure) -> dict:
    return json.loads(figure.to_json())


def _script_json(value: object) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _score_rows(scores: Mapping[str, Any], prefix: str = "") -> list[tuple[str, dict[str, float]]]:
    """(task, metric -> value) of the evaluators' results, those of single classes left out."""
    plain = {key: value for key, value in scores.items() if not isinstance(value, Mapping) and "-" not in key}
    rows = [(prefix, plain)] if plain else []
    for key, value in scores.items():
        if isinstance(value, Mapping):
            rows += _score_rows(value, f"{prefix} {key}".strip())
    return rows


def _disagreements(source: Source, tasks: Sequence[TaskReport]) -> list[str]:
    """Where the AP of the results file is not that of the run's evaluator."""
    notes = []
    for task in tasks:
        scores = source.scores.get(task.task)
        given = scores.get("AP") if isinstance(scores, Mapping) else None
        if given is not None and math.isfinite(given) and not abs(given - task.mean["AP"]) <= 0.1:
            notes.append(
                f"The evaluator found {task.name} AP {given:.1f}, these results have {task.mean['AP']:.1f}: "
                "they may be of another evaluation, or it counted another number of detections."
            )
    return notes


def _data_table(summaries: Mapping[str, CocoSummary]) -> list[tuple[str, list[str]]]:
    """(what, its value in each annotation file)."""
    counts = {
        "images": "images",
        "images without annotations": "empty_images",
        "classes": None,
        "instances": "instances",
        "crowd regions": "crowd",
        "labelled keypoints": "keypoints",
        "most instances in an image": "densest",
        "instances without a mask": "no_mask",
        "degenerate boxes": "degenerate_boxes",
        "polygons of fewer than 3 points": "short_polygons",
        "annotations of unlisted images": "orphans",
    }
    rows = []
    for title, key in counts.items():
        rows.append((title, [f"{getattr(s, key) if key else len(s.classes):,}" for s in summaries.values()]))
    rows.append(("shorter side of images, px", [_span(s.short_edges, 0) for s in summaries.values()]))
    rows.append(("longer : shorter side", [_span(s.aspect_ratios, 2) for s in summaries.values()]))
    return rows


def _span(quantiles: Sequence[float], digits: int) -> str:
    if not quantiles:
        return "–"
    low, middle, high = (quantiles[i] for i in (0, len(quantiles) // 2, -1))
    return f"{low:.{digits}f} – {high:.{digits}f}, median {middle:.{digits}f}"


def _versions() -> list[tuple[str, str]]:
    from mrcnn_plugin import collect_env

    pages = [(name, importlib.metadata.version(name)) for name in ("plotly", "jinja2")]
    return collect_env.versions() + pages
