"""report.html of runs: at the end of training, of --eval-only, and when it cannot be made."""

from __future__ import annotations

import json
import logging
import re
import shlex

from omegaconf import OmegaConf

from mrcnn_plugin.reporting.html import page, run
from mrcnn_plugin.reporting.html.command_line import main


def test_training_ends_with_a_report(finished_run):
    html = (finished_run / "report.html").read_text()
    results = json.loads((finished_run / "results.json").read_text())["results"]
    assert f'<div class="what">box AP</div><div class="value">{results["bbox"]["AP"]:.1f}</div>' in html
    charts = set(re.findall(r'data-chart="([\w-]+)"', html))
    assert {"losses", "aps", "rate", "bbox-errors", "segm-errors", "data-classes", "data-sizes"} <= charts
    assert "max_iter: 6" in html  # its config
    assert "Detectron2</td>" in html  # its versions
    assert ">coco:instances_train.json<" in html
    assert 'class="note"' not in html
    assert f"Report: {finished_run / 'report.html'}" in (finished_run / "log.txt").read_text()


def test_evaluation_alone_ends_with_a_report(finished_run, tmp_path, train, shapes):
    from helpers.tiny_runs import tiny_arguments, train_in_process

    weights = finished_run / "model_final.pth"
    arguments = tiny_arguments(shapes, tmp_path, "--eval-only", f"train.init_checkpoint={weights}")
    assert train_in_process(arguments) == 0
    html = (tmp_path / "report.html").read_text()
    assert 'data-chart="segm-errors"' in html
    assert 'data-chart="losses"' not in html


class Config:
    """As much of a RunConfig as a report asks for."""

    train_names = test_names = ()

    def __init__(self, folder) -> None:
        self.output_dir = str(folder)

    def coco_results(self):
        return None


def test_an_error_is_one_line_and_no_failure(tmp_path, monkeypatch, caplog):
    def fail(source):
        raise RuntimeError("no\n  luck")

    monkeypatch.setattr(page, "render", fail)
    with caplog.at_level(logging.WARNING, logger="mrcnn_plugin"):
        assert run.write_run_report(Config(tmp_path), {}, None) is None
    (record,) = caplog.records
    assert record.getMessage() == "report.html was not written (RuntimeError: no luck)"
    assert list(tmp_path.iterdir()) == []
    # Nor if what fails is the config.
    config = Config(tmp_path)
    config.coco_results = lambda: 1 / 0
    assert run.write_run_report(config, {}, None) is None
    assert "(ZeroDivisionError: division by zero)" in caplog.records[-1].getMessage()


def test_the_command_in_the_warning_makes_the_report(finished_run, tmp_path, shapes, monkeypatch, caplog):
    from mrcnn_plugin.config import CocoResults

    config = Config(finished_run)
    name = shapes["val"]
    path = str(finished_run / "inference" / "coco_instances_results.json")
    config.coco_results = lambda: CocoResults(name, path)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="mrcnn_plugin"):
        patch.setattr(page, "render", lambda source: 1 / 0)
        run.write_run_report(config, {}, None)
    (record,) = caplog.records
    message, _, command = record.getMessage().partition("; to make it: ")
    assert "(AttributeError: " in message or "(ZeroDivisionError: " in message
    python, m, module, *arguments = shlex.split(command)
    assert (python, m, module) == ("python", "-m", "mrcnn_plugin.reporting")
    again = tmp_path / "again.html"
    assert main([*arguments, "--output", str(again)]) == 0
    html = again.read_text()
    assert 'data-chart="losses"' in html
    assert "data:image/jpeg;base64," in html


def test_without_a_coco_evaluator_there_is_a_report_of_the_rest(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    assert run.write_run_report(Config(tmp_path), {"segm": {"AP": 31.26}}, 7) == str(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "no evaluator of this config writes them in COCO&#39;s format" in html
    assert 'data-chart="losses"' in html
    assert "<td>31.3</td>" in html


def test_where_configs_leave_their_results(tmp_path):
    from helpers.tiny_runs import TINY

    from mrcnn_plugin.config import load_config

    config = load_config(str(TINY), [f"train.output_dir={tmp_path}"])
    assert config.coco_results() is None  # not evaluated yet
    OmegaConf.update(config.raw, "dataloader.evaluator.output_dir", f"{tmp_path}/inference", force_add=True)
    found = config.coco_results()
    assert (found.dataset, found.kpt_oks_sigmas) == ("shapes_val", ())
    assert found.path == f"{tmp_path}/inference/coco_instances_results.json"
    evaluator = OmegaConf.to_container(config.raw.dataloader.evaluator, resolve=True)
    config.raw.dataloader.evaluator = [evaluator]
    assert config.coco_results() == found
