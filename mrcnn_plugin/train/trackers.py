"""Experiment trackers beside metrics.json and TensorBoard: Weights & Biases and MLflow, as event writers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.errors import ConfigError

# The file of a run folder that remembers a tracker's own name of the run, so that --resume continues it.
_RUN_FILE = "{tracker}_run.json"


def check_trackers(names: Iterable[str], key: str) -> None:
    """Raises ConfigError where a tracker's package is missing; `key` is what named it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{key}: {name} is not installed: pip install {name}")


def tracker_writers(
    names: Iterable[str], output_dir: str, config: Mapping[str, Any], *, resume: bool
) -> list[EventWriter]:
    """The event writers of the trackers that Detectron2 has none for.

    Args:
        names: of trackers; "tensorboard" is Detectron2's own affair.
        output_dir: the run folder.
        config: to show beside the curves.
        resume: whether the run continues the one that the folder remembers.
    """
    kinds: dict[str, type[_Writer]] = {"wandb": WandbWriter, "mlflow": MLflowWriter}
    return [kinds[name](output_dir, config, resume=resume) for name in names if name in kinds]


class _Writer(EventWriter):
    """Hands each scalar on once, at its iteration, smoothed as metrics.json has it."""

    name: str

    def __init__(self, output_dir: str, config: Mapping[str, Any], *, resume: bool) -> None:
        self._last = -1
        self._run_file = Path(output_dir, _RUN_FILE.format(tracker=self.name))
        former = self._former_run() if resume else None
        run = self._open(output_dir, config, former)
        write_atomically(self._run_file, json.dumps({"run": run}).encode())

    def _former_run(self) -> str | None:
        try:
            return json.loads(self._run_file.read_text())["run"]
        except (OSError, ValueError, KeyError):
            return None

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint().items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration, scalars in sorted(by_iteration.items()):
            self._log(scalars, iteration)
            self._last = iteration

    @abstractmethod
    def _open(self, output_dir: str, config: Mapping[str, Any], former: str | None) -> str:
        """Starts a run, or continues the `former` one; returns the tracker's name of it."""

    @abstractmethod
    def _log(self, scalars: Mapping[str, float], iteration: int) -> None: ...


class WandbWriter(_Writer):
    """Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE, ...) say where to."""

    name = "wandb"

    def _open(self, output_dir: str, config: Mapping[str, Any], former: str | None) -> str:
        import wandb

        name = os.path.basename(os.path.normpath(output_dir))
        self._run = wandb.init(dir=output_dir, name=name, config=dict(config), id=former, resume="allow")
        return self._run.id

    def _log(self, scalars: Mapping[str, float], iteration: int) -> None:
        self._run.log(dict(scalars), step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflowWriter(_Writer):
    """MLflow; its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME) say where to."""

    name = "mlflow"

    def _open(self, output_dir: str, config: Mapping[str, Any], former: str | None) -> str:
        import mlflow

        self._client = mlflow.MlflowClient()
        name = os.path.basename(os.path.normpath(output_dir))
        if former is not None:
            self._run_id = former
            self._client.update_run(former, status="RUNNING")
            return former
        experiment = mlflow.set_experiment(os.getenv("MLFLOW_EXPERIMENT_NAME", "Default"))
        run = self._client.create_run(experiment.experiment_id, run_name=name)
        self._run_id = run.info.run_id
        for key, value in config.items():
            # The server takes no longer ones.
            self._client.log_param(self._run_id, _mlflow_name(key), str(value)[:500])
        return self._run_id

    def _log(self, scalars: Mapping[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_mlflow_name(name), value, now, iteration) for name, value in scalars.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


def _mlflow_name(name: str) -> str:
    """MLflow refuses other characters, such as those of class names."""
    return re.sub(r"[^\w\-. :/]", "_", name)
