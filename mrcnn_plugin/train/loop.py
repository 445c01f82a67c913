"""The training loop: Detectron2's trainer and hooks on what a config describes."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.engine import SimpleTrainer, create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, check_weights
from mrcnn_plugin.config import Results, RunConfig
from mrcnn_plugin.config.run_config import memory_format_of
from mrcnn_plugin.config.saving import saved_keys
from mrcnn_plugin.config.training_keys import EMA_SUFFIX
from mrcnn_plugin.data import ResumableLoader
from mrcnn_plugin.errors import ConfigError, Interrupted
from mrcnn_plugin.reporting import finish

from .diverged import explain
from .ema import WeightAverage
from .evaluate import evaluate
from .evaluation_hooks import BestCheckpointer, EarlyStopping, Evaluation, StopEarly, UnknownMetric
from .failures import explained
from .hooks import InterruptCheckpointer, ProgressBar, StepSeed, StopSignals
from .kernels import compile_for_training, use_kernels
from .model_checks import check_anchors, check_frozen_norms, check_scheduler
from .run_folder import cut_metrics
from .trackers import tracker_writers
from .trainer import NonFiniteLoss, Trainer
from .validation_loss import validation_losses

logger = logging.getLogger(__name__)


def _distributed(model: nn.Module, config: RunConfig) -> nn.Module:
    # DDP copies rank 0's parameters to the other processes, whose seeds differ.
    on_cpu = {"device_ids": None} if config.device == "cpu" else {}
    return create_ddp_model(model, **config.ddp, **on_cpu)


def _trainer(config: RunConfig, model: nn.Module) -> Trainer:
    options: dict[str, Any] = {"accumulate": config.training.accumulate}
    if config.amp and config.device.startswith("cuda"):
        options["precision"] = functools.partial(torch.autocast, "cuda", dtype=torch.float16)
        options["grad_scaler"] = torch.amp.GradScaler("cuda")
    elif config.amp:
        # bfloat16 has the range of float32, so that gradients need no scaling.
        options["precision"] = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    use_kernels(
        model,
        memory_format_of(config.memory_format, config.device),
        # A compiler sees no further than into an operation of its own.
        fused=config.fused_convolutions and not config.compile,
        amp=config.amp,
    )
    if config.compile:
        if config.device == "cpu" and config.fused_convolutions:
            key = config.keys.spell("train.compile")
            logger.warning(f"{key} takes the place of the fused convolutions, which were faster on the CPU")
        compile_for_training(model)
    optimizer = config.build_optimizer(model)
    loader = ResumableLoader(config.build_train_loader(), _seed(config))
    return Trainer(_distributed(model, config), loader, optimizer, **options)


def _seed(config: RunConfig) -> int:
    if config.seed is None:
        raise ConfigError(f"{config.keys.seed} is missing: a run needs a seed to be resumed exactly")
    return config.seed


@dataclass
class _Run:
    """A training in progress: what its hooks and its end share."""

    config: RunConfig
    model: nn.Module
    trainer: Trainer
    checkpointer: DetectionCheckpointer
    signals: StopSignals
    average: WeightAverage | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        decay = self.config.training.ema.decay
        if decay:
            self.average = WeightAverage(self.model, decay)
            self.checkpointer.add_checkpointable("ema", self.average.average)
        self.interrupt = InterruptCheckpointer(self.checkpointer, self.signals)
        self.evaluation = Evaluation(self.config.eval_period, self.evaluate)

    def evaluate(self) -> Results:
        """Evaluates the weights, their average and the validation losses."""
        self.evaluate_as(final=self.trainer.iter + 1 >= self.config.max_iter)
        return self.results

    def evaluate_as(self, *, final: bool) -> None:
        with self.signals.interruptible():
            if self.config.training.validation_loss:
                losses = validation_losses(self.model, self.config.build_validation_loader())
                self.trainer.storage.put_scalars(**losses, smoothing_hint=False)
            if self.average is not None:
                # First, so that the files of the evaluator are of the trained weights.
                logger.info("Evaluating the averaged weights")
                averaged = evaluate(self.config, self.average.model, final=final, suffix=EMA_SUFFIX)
                self.results.update(averaged)
            _merge(self.results, evaluate(self.config, self.model, final=final))

    def build_hooks(self, *, resume: bool) -> list[hooks.HookBase | None]:
        config, keys, trainer = self.config, self.config.training, self.trainer
        main_process = comm.is_main_process()
        best, stopping = keys.best_checkpoint, keys.early_stopping
        scheduler = config.build_scheduler(trainer.optimizer)
        check_scheduler(scheduler, config.max_iter, config.keys.scheduler)
        return [
            StepSeed(_seed(config)),
            hooks.IterationTimer(),
            hooks.LRScheduler(trainer.optimizer, scheduler),
            *config.build_hooks(self.model),
            self.average,
            hooks.PeriodicCheckpointer(self.checkpointer, **config.checkpointer) if main_process else None,
            ProgressBar() if main_process and sys.stderr.isatty() else None,
            self.evaluation,
            BestCheckpointer(self.evaluation, self._best_weights(best.metric), best.metric, best.mode)
            if best.metric and main_process
            else None,
            EarlyStopping(self.evaluation, stopping.metric, stopping.mode, stopping.patience)
            if stopping.metric
            else None,
            hooks.PeriodicWriter(self._writers(resume), period=config.log_period) if main_process else None,
            # Last, so that the interrupted step's metrics are written and its evaluation is done.
            self.interrupt,
        ]

    def _best_weights(self, metric: str) -> _Weights:
        averaged = self.average if EMA_SUFFIX in metric else None
        return _Weights(self.checkpointer, self.model if averaged is None else averaged.model)

    def _writers(self, resume: bool) -> list[EventWriter]:
        config, trackers = self.config, self.config.training.trackers
        metrics = os.path.join(config.output_dir, "metrics.json")
        writers: list[EventWriter] = [CommonMetricPrinter(config.max_iter), JSONWriter(metrics)]
        if "tensorboard" in trackers:
            writers.append(TensorboardXWriter(config.output_dir))
        keys = saved_keys(config.output_dir)
        return [*writers, *tracker_writers(trackers, config.output_dir, keys, resume=resume)]

    def load(self, *, resume: bool) -> int:
        """Loads weights, or everything when resuming; returns the first iteration to run."""
        config, checkpointer = self.config, self.checkpointer
        if resume and not checkpointer.has_checkpoint():
            logger.info(f"--resume: no checkpoint in {config.output_dir} yet, starting from the beginning")
            check_weights(config.init_checkpoint, config.keys.init_checkpoint)
        resumed = resume and checkpointer.has_checkpoint()
        state = checkpointer.resume_or_load(config.init_checkpoint, resume=resume)
        if not resumed:
            check_frozen_norms(checkpointer.model, config.keys.init_checkpoint)
            return 0
        if "iteration" not in state:
            raise ConfigError(
                f"--resume: {checkpointer.get_checkpoint_file()} holds weights, but not the state of a "
                f"training; start from it with {config.keys.init_checkpoint}=FILE in another folder"
            )
        start = self.trainer.iter + 1
        self.trainer.data_loader.batches = start * self.trainer.accumulate
        if comm.is_main_process():
            cut_metrics(config.output_dir, start)
        return start

    def train(self, start: int) -> None:
        """Trains from iteration `start` on, to the end or until a metric no longer improves."""
        try:
            self.trainer.train(start, self.config.max_iter)
        except StopEarly as stop:
            logger.info(str(stop))
            if self.evaluation.just_done:
                self.trainer.iter = stop.iteration
                self.checkpointer.save("model_final", iteration=stop.iteration)
            # As the trainer counts after its last step.
            self.trainer.iter = stop.iteration + 1
            if not self.evaluation.just_done or self.config.evaluates_more_at_the_end:
                self._without_steps(lambda: self.evaluate_as(final=True))

    def evaluate_only(self) -> None:
        """The end of a run whose last step is done: evaluation, and whether that is the best one."""
        logger.info(f"Already trained to iteration {self.config.max_iter}; evaluating")
        self.checkpointer.restore_final(iteration=self.config.max_iter - 1)
        self.trainer.iter = self.trainer.max_iter = self.config.max_iter
        after_evaluation = [h for h in self.trainer._hooks if isinstance(h, Evaluation | BestCheckpointer)]

        def evaluate_and_compare() -> None:
            for hook in after_evaluation:
                hook.after_train()

        self._without_steps(evaluate_and_compare)

    def _without_steps(self, action: Callable[[], None]) -> None:
        with EventStorage(self.trainer.iter) as self.trainer.storage:
            action()


@dataclass
class _Weights:
    """Weights to be saved under a name, beside the checkpoints to resume from."""

    checkpointer: DetectionCheckpointer
    model: nn.Module

    def save(self, name: str, **extra: Any) -> None:
        self.checkpointer.save_weights(name, self.model, **extra)


def _merge(results: dict[str, Any], more: Results) -> None:
    """Adds tasks, also to those of a data set that is there already."""
    for name, value in more.items():
        nested = isinstance(results.get(name), dict) and any(isinstance(v, dict) for v in value.values())
        results[name] = {**results[name], **value} if nested else value


def train(config: RunConfig, *, resume: bool = False) -> SimpleTrainer:
    """Trains to `config.max_iter`, evaluates, and writes what the run folder ends with.

    Args:
        resume: continue from the folder's last checkpoint, if it has one.

    Raises:
        Interrupted: SIGINT or SIGTERM came; unless it came before the first step, there is a checkpoint.
        DivergedError: a loss is not finite.
        ConfigError: the evaluation lacks a metric that a key names; the model or its schedule cannot be
            trained; or the system ended the training.
    """
    signals = StopSignals()
    with signals, explained(config):
        model = config.build_model()
        check_anchors(model)
        logger.info(f"Model:\n{model}")
        trainer = _trainer(config, model)
        checkpointer = DetectionCheckpointer(trainer.model, config.output_dir, trainer=trainer)
        if not (resume and checkpointer.has_checkpoint()):
            _set_aside_metrics(config.output_dir)
        run = _Run(config, model, trainer, checkpointer, signals)
        trainer.register_hooks(run.build_hooks(resume=resume))
        start = run.load(resume=resume)
        try:
            if start < config.max_iter:
                run.train(start)
            else:
                run.evaluate_only()
        except Interrupted as stop:
            # An evaluation between two steps was broken off: the step before it is not yet saved.
            if signals.received and start <= trainer.iter < config.max_iter - 1 and not run.interrupt.saved:
                run.interrupt.save()
            _report_interrupt(stop, checkpointer)
            raise
        except NonFiniteLoss as stop:
            raise explain(stop, checkpointer, config.keys.init_checkpoint) from None
        except UnknownMetric as stop:
            if start <= trainer.iter < config.max_iter - 1:
                run.interrupt.save()
            keys = ", ".join(map(config.keys.spell, config.training.metrics))
            raise ConfigError(f"{keys}: {stop}; correct the key and go on with --resume") from None
    if run.average is not None and comm.is_main_process():
        checkpointer.save_weights("model_ema", run.average.model, iteration=trainer.iter)
    finish(config, model, run.results, trainer.iter)
    return trainer


def _set_aside_metrics(output_dir: str) -> None:
    """A new run in a used folder: the former metrics would be drawn as a part of its curves."""
    path = os.path.join(output_dir, "metrics.json")
    if comm.is_main_process() and os.path.exists(path) and os.path.getsize(path):
        os.replace(path, path + ".old")


def _report_interrupt(stop: Interrupted, checkpointer: DetectionCheckpointer) -> None:
    if checkpointer.has_checkpoint():
        logger.info(f"Stopped by {stop}. Continue with --resume from {checkpointer.get_checkpoint_file()}")
    else:
        logger.info(f"Stopped by {stop} before the first checkpoint")
