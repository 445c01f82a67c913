"""Trackers: real runs of wandb (offline) and MLflow (a file store) where they are installed."""

from __future__ import annotations

import json
import struct
import time

import pytest
from detectron2.utils.events import EventStorage

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.train.trackers import check_trackers, tracker_writers


def run_of(name, folder, values, *, start=0, resume=False):
    """One run of two scalars, written every second iteration; what its writers hand on."""
    writers = tracker_writers([name], str(folder), {"optimizer.lr": "0.1"}, resume=resume)
    with EventStorage(start) as storage:
        for iteration, value in enumerate(values, start=start):
            storage.iter = iteration
            storage.put_scalar("total_loss", value, smoothing_hint=False)
            storage.put_scalar("segm/AP-a&b", 10 * value, smoothing_hint=False)
            for writer in writers:
                writer.write()
    for writer in writers:
        writer.close()


def test_unknown_packages_are_named_before_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.trackers: wandb is not installed: pip install wandb"):
        check_trackers(["wandb"], "train.trackers")


def test_tensorboard_alone_needs_no_writer_of_ours(tmp_path):
    check_trackers(["tensorboard"], "train.trackers")
    assert tracker_writers(["tensorboard"], str(tmp_path), {}, resume=False) == []


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shapes")
    folder = tmp_path / "run"
    folder.mkdir()
    run_of("mlflow", folder, [4.0, 3.0])
    run_of("mlflow", folder, [2.0], start=2, resume=True)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("shapes")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params == {"optimizer.lr": "0.1"}
    history = client.get_metric_history(run.info.run_id, "total_loss")
    assert [(point.step, point.value) for point in history] == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert run.data.metrics["segm/AP-a_b"] == 20.0


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    run_of("wandb", folder, [4.0, 3.0])
    name = json.loads((folder / "wandb_run.json").read_text())["run"]
    run_of("wandb", folder, [2.0], start=2, resume=True)
    assert json.loads((folder / "wandb_run.json").read_text())["run"] == name
    files = sorted(folder.glob(f"wandb/offline-run-*/run-{name}.wandb"))
    assert len(files) == 2
    # wandb's own process writes them.
    deadline = time.monotonic() + 30
    while not all(map(ended, files)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    history = {step: values for file in files for step, values in history_of(file).items()}
    assert history == {0: (4.0, 40.0), 1: (3.0, 30.0), 2: (2.0, 20.0)}


def records(file):
    """The records of an offline run's log."""
    from wandb.proto import wandb_internal_pb2

    for data in records_of(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def ended(file):
    return any(record.HasField("exit") for record in records(file))


def history_of(file):
    """Step -> (total_loss, AP) of an offline run's log."""
    rows = {}
    for record in records(file):
        if record.HasField("history"):
            items = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            rows[items["_step"]] = (items["total_loss"], items["segm/AP-a&b"])
    return rows


def records_of(content):
    """Records of a log in LevelDB's format, after wandb's header of 7 bytes."""
    block, header = 32768, struct.Struct("<IHB")
    position, parts = 7, b""
    while position + header.size <= len(content):
        if block - position % block < header.size:
            position += block - position % block
            continue
        _, length, kind = header.unpack_from(content, position)
        position += header.size
        parts += content[position : position + length]
        position += length
        # 1: whole, 2: first, 3: middle, 4: last part of a record.
        if kind in (1, 4):
            yield parts
            parts = b""
