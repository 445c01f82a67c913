"""When evaluations happen, which weights are the best, when a run ends early: on scripted metrics."""

from __future__ import annotations

import math

import pytest
from detectron2.engine import HookBase, TrainerBase

from mrcnn_plugin.train.evaluation_hooks import (
    BestCheckpointer,
    EarlyStopping,
    Evaluation,
    StopEarly,
    UnknownMetric,
)


class Killed(BaseException):
    pass


class KilledAt(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise Killed


class Saver:
    def __init__(self):
        self.saved = []

    def save(self, name, iteration):
        self.saved.append((name, iteration))


class Run(TrainerBase):
    """Steps that do nothing; the k-th evaluation has the k-th value."""

    def __init__(self, values, period=2, patience=2, mode="max", extra=()):
        super().__init__()
        self.values, self.period = values, period
        self.evaluated = []
        self.saver = Saver()
        evaluation = Evaluation(period, self.evaluate)
        self.best = BestCheckpointer(evaluation, self.saver, "segm/AP", mode)
        self.stopping = EarlyStopping(evaluation, "segm/AP", mode, patience)
        self.register_hooks([*extra, evaluation, self.best, self.stopping])

    def evaluate(self):
        completed = min(self.iter + 1, self.max_iter)
        self.evaluated.append(completed)
        return {"segm": {"AP": self.values[completed // self.period - 1]}}

    def run_step(self):
        pass


def test_the_best_of_all_is_kept_and_the_run_ends_after_patience():
    run = Run([30.0, 50.0, 40.0, 50.0, 60.0])
    with pytest.raises(StopEarly) as stop:
        run.train(0, 10)
    assert run.evaluated == [2, 4, 6, 8]
    assert run.saver.saved == [("model_best", 1), ("model_best", 3)]
    assert stop.value.iteration == 7
    assert "segm/AP has not improved in the last 2 evaluations (best: 50.0000, iteration 3)" in str(
        stop.value
    )


def test_smaller_is_better_and_what_is_not_finite_is_no_improvement():
    run = Run([3.0, math.nan, 2.0, 2.5, math.nan], mode="min")
    with pytest.raises(StopEarly) as stop:
        run.train(0, 10_000)
    assert run.saver.saved == [("model_best", 1), ("model_best", 5)]
    assert stop.value.iteration == 9


def test_the_last_evaluation_counts():
    run = Run([30.0, 20.0, 40.0], patience=9)
    run.train(0, 6)
    assert run.evaluated == [2, 4, 6]
    assert run.saver.saved == [("model_best", 1), ("model_best", 6)]


@pytest.mark.parametrize("iteration", range(8))
def test_killed_after_any_step_and_resumed_is_unbroken(iteration):
    """The checkpoint is of before the evaluation of its iteration, as PeriodicCheckpointer's are."""
    values = [30.0, 50.0, 40.0, 50.0, 60.0]
    states = []

    class Checkpoint(HookBase):
        def after_step(self):
            states.append(self.trainer.state_dict())

    killed = Run(values, extra=[Checkpoint(), KilledAt(iteration)])
    with pytest.raises(Killed):
        killed.train(0, 10)
    resumed = Run(values)
    resumed.load_state_dict(states[-1])
    with pytest.raises(StopEarly) as stop:
        resumed.train(iteration + 1, 10)
    assert stop.value.iteration == 7
    assert killed.evaluated + resumed.evaluated == [2, 4, 6, 8]
    saved = dict.fromkeys([*killed.saver.saved, *resumed.saver.saved])
    assert list(saved) == [("model_best", 1), ("model_best", 3)]
    assert resumed.stopping.state_dict() == {"metric": "segm/AP", "best": 50.0, "iteration": 3, "stale": 2}


def test_a_stopped_run_that_is_resumed_stops_again_unless_patience_grew():
    values = [30.0, 20.0, 10.0, 5.0]
    stopped = Run(values)
    with pytest.raises(StopEarly):
        stopped.train(0, 8)
    state = stopped.state_dict()
    again = Run(values)
    again.load_state_dict(state)
    with pytest.raises(StopEarly) as stop:
        again.train(6, 8)
    assert (stop.value.iteration, again.evaluated) == (5, [])
    longer = Run(values, patience=9)
    longer.load_state_dict(state)
    longer.train(6, 8)
    assert longer.evaluated == [8]


def test_a_metric_that_is_not_there_ends_the_run_with_those_that_are():
    run = Run([1.0])
    run.best._metric = "bbox/AP"
    with pytest.raises(UnknownMetric, match="no metric 'bbox/AP' in the evaluation, which has segm/AP"):
        run.train(0, 4)


def test_another_metric_starts_anew():
    run = Run([1.0])
    run.best.load_state_dict({"metric": "bbox/AP", "best": 70.0, "iteration": 3})
    run.stopping.load_state_dict({"metric": "bbox/AP", "best": 70.0, "iteration": 3, "stale": 2})
    assert run.best.best_metric is None
    assert run.stopping.stale == 0


def test_no_evaluation_after_an_error_in_the_last_step():
    class Failing(Run):
        def run_step(self):
            if self.iter == 3:
                raise ValueError("in the last step")

    run = Failing([1.0, 2.0])
    with pytest.raises(ValueError, match="in the last step"):
        run.train(0, 4)
    assert run.evaluated == [2]
