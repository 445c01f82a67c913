"""report.html of a run, at the end of training or of --eval-only."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex

from detectron2.data import Metadata, MetadataCatalog

from mrcnn_plugin.config import CocoResults, Results, RunConfig
from mrcnn_plugin.data.checks import title_of
from mrcnn_plugin.evaluation.coco_evaluation import oks_sigmas

from .page import write_report
from .source import Source

logger = logging.getLogger(__name__)


def write_run_report(config: RunConfig, results: Results, iteration: int | None) -> str | None:
    """Writes report.html into the run folder; its path.

    A run that has come to its end must not fail in its report: where that cannot be made, one line of the log
    says why, and how to make it later, and the return value is None.

    Args:
        results: what the evaluators found.
        iteration: that the weights are of, if it is known.
    """
    path = os.path.join(config.output_dir, "report.html")
    try:
        write_report(_source(config, results, iteration), path)
    except Exception as error:
        cause, again = " ".join(f"{type(error).__name__}: {error}".split()), ""
        # What stopped the report may stop this, too.
        with contextlib.suppress(Exception):
            again = _again(config)
        logger.warning(f"report.html was not written ({cause}){again}")
        return None
    return path


def _source(config: RunConfig, results: Results, iteration: int | None) -> Source:
    source = Source(title=f"Run {os.path.basename(os.path.abspath(config.output_dir))}", scores=results)
    source.facts.append(("run folder", config.output_dir))
    if iteration is not None:
        source.facts.append(("iteration", f"{iteration:,}"))
    source.read_run(config.output_dir)
    _add_detections(source, config)
    for name in dict.fromkeys([*config.train_names, *config.test_names]):
        metadata = MetadataCatalog.get(name)
        if metadata.get("json_file") and metadata.get("evaluator_type", "coco") == "coco":
            source.summarize(title_of(name), metadata.json_file)
    return source


def _add_detections(source: Source, config: RunConfig) -> None:
    """Results file and annotations of the last test set, or a note of why there is no analysis."""
    found = config.coco_results()
    if found is None:
        source.notes.append(
            "No analysis of detections: no evaluator of this config writes them in COCO's format."
        )
        return
    metadata = MetadataCatalog.get(found.dataset)
    if not os.path.isfile(found.path) or not metadata.get("json_file"):
        source.notes.append(f"No analysis of detections: there is no {found.path}.")
        return
    if len(config.test_names) > 1:
        source.notes.append(
            f"Of {len(config.test_names)} test sets, the analysis is of {title_of(found.dataset)}."
        )
    source.read_detections(found.path, metadata.json_file)
    assert source.ground_truth is not None
    source.image_root = metadata.get("image_root")
    source.max_dets = config.expected_of_data().max_dets or 100
    source.sigmas = _sigmas(found, metadata)
    source.facts.append(("test set", title_of(found.dataset)))
    source.facts.append(("images", f"{len(source.ground_truth.imgs):,}"))
    source.facts.append(("detections", f"{len(source.results):,}"))


def _sigmas(found: CocoResults, metadata: Metadata) -> list[float]:
    return list(found.kpt_oks_sigmas) or oks_sigmas(metadata)


def _again(config: RunConfig) -> str:
    """The command that makes the report of a finished run."""
    found = config.coco_results()
    json_file = MetadataCatalog.get(found.dataset).get("json_file") if found is not None else None
    if found is None or not json_file:
        return ""
    command = ["python", "-m", "mrcnn_plugin.reporting", found.path, json_file, "--run", config.output_dir]
    image_root = MetadataCatalog.get(found.dataset).get("image_root")
    command += ["--images", image_root] if image_root else []
    return f"; to make it: {shlex.join(command)}"
