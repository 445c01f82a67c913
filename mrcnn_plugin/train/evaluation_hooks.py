"""Hooks around the evaluations of a run: when they are due, the best weights, and an early end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from mrcnn_plugin.config import Results

from .trainer import StopTraining

logger = logging.getLogger(__name__)


class StopEarly(StopTraining):
    """A metric has not improved for too long.

    Attributes:
        iteration: the last one that was completed.
    """

    def __init__(self, message: str, iteration: int) -> None:
        super().__init__(message)
        self.iteration = iteration


class UnknownMetric(StopTraining):
    """The evaluation does not compute the metric that a key names."""


class Evaluation(hooks.EvalHook):
    """Detectron2's EvalHook, which also makes up for an evaluation that an interruption has cost.

    Checkpoints are saved before the evaluation of the same iteration, so that nothing is lost where it is
    broken off. A run that is resumed from such a checkpoint evaluates before its first step.

    Attributes:
        done: iterations completed at the latest evaluation; 0 before the first.
        just_done: whether that was in the present call of the hooks.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Results | None]) -> None:
        super().__init__(eval_period, eval_function)
        self.done = 0
        self.just_done = False

    def _do_eval(self) -> None:
        super()._do_eval()
        self.just_done = True
        # In after_train the trainer counts the last iteration as completed already.
        self.done = min(self.trainer.iter + 1, self.trainer.max_iter)

    def before_train(self) -> None:
        completed = self.trainer.start_iter
        if self._period > 0 and completed and completed % self._period == 0 and self.done < completed:
            logger.info(f"The evaluation after iteration {completed} is made up for")
            # As at that time; where it is broken off, no step of this run has been taken yet.
            self.trainer.iter = self.trainer.storage.iter = completed - 1
            self._do_eval()
            self.trainer.iter = self.trainer.storage.iter = completed

    def before_step(self) -> None:
        self.just_done = False

    def after_train(self) -> None:
        # Detectron2's also evaluates after an exception in the last step.
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        self.done = state_dict["done"]


class WeightsFile(Protocol):
    """Saves weights under a name."""

    def save(self, name: str, **extra: Any) -> None: ...


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's BestCheckpointer, with a state and with an end where nothing computes the metric."""

    def __init__(self, evaluation: Evaluation, checkpointer: WeightsFile, metric: str, mode: str) -> None:
        super().__init__(1, checkpointer, metric, mode)
        self._evaluation = evaluation
        self._metric = metric

    def _after_evaluation(self) -> None:
        if self._evaluation.just_done:
            latest_metric(self.trainer.storage, self._metric)
            self._best_checking()

    def before_train(self) -> None:
        self._after_evaluation()

    def after_step(self) -> None:
        self._after_evaluation()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._after_evaluation()

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self._metric, "best": self.best_metric, "iteration": self.best_iter}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        # Of another metric nothing is known yet.
        if state_dict["metric"] == self._metric:
            self.best_metric, self.best_iter = state_dict["best"], state_dict["iteration"]


class EarlyStopping(HookBase):
    """Ends the run where a metric has not improved for `patience` evaluations in succession.

    What is not finite is no improvement. The processes take the decision of rank 0, which has the results.
    """

    def __init__(self, evaluation: Evaluation, metric: str, mode: str, patience: int) -> None:
        """
        Args:
            metric: its name in the event storage.
            mode: "max" or "min".
        """
        self._evaluation = evaluation
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._patience = patience
        self.best: float | None = None
        self.best_iter = 0
        self.stale = 0

    def before_train(self) -> None:
        completed = self.trainer.start_iter - 1
        if self._evaluation.just_done:
            self._judge(completed)
        self._stop_where_stale(completed)

    def after_step(self) -> None:
        if self._evaluation.just_done:
            self._judge(self.trainer.iter)
            self._stop_where_stale(self.trainer.iter)

    def _judge(self, iteration: int) -> None:
        if not comm.is_main_process():
            return
        value = latest_metric(self.trainer.storage, self._metric)
        better = math.isfinite(value) and (self.best is None or self._sign * value > self._sign * self.best)
        if better:
            self.best, self.best_iter, self.stale = value, iteration, 0
        else:
            self.stale += 1

    def _stop_where_stale(self, iteration: int) -> None:
        if not comm.all_gather(self.stale >= self._patience)[0]:
            return
        best = "" if self.best is None else f" (best: {self.best:.4f}, iteration {self.best_iter})"
        raise StopEarly(
            f"Stopped after iteration {iteration}: {self._metric} has not improved in the last "
            f"{self._patience} evaluations{best}. To train on: --resume with a larger patience",
            iteration,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self._metric,
            "best": self.best,
            "iteration": self.best_iter,
            "stale": self.stale,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if state_dict["metric"] == self._metric:
            self.best, self.best_iter = state_dict["best"], state_dict["iteration"]
            self.stale = state_dict["stale"]


def latest_metric(storage: Any, name: str) -> float:
    """The latest value of a scalar.

    Raises:
        UnknownMetric: the evaluation has not computed it.
    """
    scalars, smoothed = storage.latest(), storage.smoothing_hints()
    if name not in scalars:
        known = sorted(key for key in scalars if "/" in key and "-" not in key and not smoothed[key])
        raise UnknownMetric(f"no metric {name!r} in the evaluation, which has {', '.join(known) or 'none'}")
    return scalars[name][0]
