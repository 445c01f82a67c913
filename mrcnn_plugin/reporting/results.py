"""What a run folder ends with: results.json, pictures, report.html, and the AP table on screen."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.config import Results, RunConfig
from mrcnn_plugin.modeling import returning_masks_as

from .curves import plot_curves, read_metrics
from .html.run import write_run_report
from .pictures import predictions_picture

logger = logging.getLogger(__name__)


def finish(config: RunConfig, model: nn.Module, results: Results, iteration: int | None) -> None:
    """Writes results.json, curves.png, predictions.png and report.html; prints the AP table and paths.

    Raises:
        ConfigError, SystemExit: the results are not those that the config expects.
    """
    if not comm.is_main_process():
        return
    write_results(results, os.path.join(config.output_dir, "results.json"), iteration)
    paths = _pictures(config, model)
    if results:
        logger.info(f"Results on {', '.join(config.test_names)}:\n{ap_table(results)}")
    for path in paths:
        logger.info(f"Picture: {path}")
    report = write_run_report(config, results, iteration)
    if report is not None:
        logger.info(f"Report: {report}")
    config.check_results(results)


def _pictures(config: RunConfig, model: nn.Module) -> list[str]:
    paths = []
    metrics = os.path.join(config.output_dir, "metrics.json")
    if os.path.exists(metrics) and os.path.getsize(metrics):
        paths.append(os.path.join(config.output_dir, "curves.png"))
        plot_curves(read_metrics(metrics), paths[-1], title=config.output_dir)
    test_set = config.test_names[:1]
    dataset_dicts = get_detection_dataset_dicts(test_set, filter_empty=False) if test_set else []
    if dataset_dicts:
        paths.append(os.path.join(config.output_dir, "predictions.png"))
        metadata = MetadataCatalog.get(test_set[0])
        with returning_masks_as(model, "rle"):
            predictions_picture(model, config.build_test_mapper(), dataset_dicts, metadata, paths[-1])
    return paths


def write_results(results: Results, path: str, iteration: int | None) -> None:
    """Writes {"iteration": ..., "results": task -> metric -> value}; what is not finite becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(child) for key, child in value.items()}
        return float(value) if math.isfinite(value) else None

    content = json.dumps({"iteration": iteration, "results": plain(results)}, indent=2)
    write_atomically(Path(path), content.encode())


def ap_table(results: Results) -> str:
    """The metrics of every task as a table; those of single classes are left out."""
    rows, header = [], []
    for name, values in _tasks(results):
        metrics = {key: value for key, value in values.items() if "-" not in key}
        header += [key for key in metrics if key not in header]
        rows.append((name, metrics))
    # NaN: a metric of a kind of object that the test set lacks.
    table = [
        [name, *(m[key] if math.isfinite(m.get(key, math.nan)) else None for key in header)]
        for name, m in rows
    ]
    return tabulate(table, headers=["task", *header], floatfmt=".1f", missingval="-")


def _tasks(results: Results, prefix: str = "") -> list[tuple[str, Mapping[str, float]]]:
    if results and not any(isinstance(value, Mapping) for value in results.values()):
        return [(prefix, results)]
    children = ((f"{prefix} {key}".strip(), value) for key, value in results.items())
    return [row for name, value in children if isinstance(value, Mapping) for row in _tasks(value, name)]
