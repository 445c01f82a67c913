"""The training loop: Detectron2's trainers and hooks on what a config describes."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from detectron2.engine import SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.utils import comm
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, check_weights
from mrcnn_plugin.config import Results, RunConfig
from mrcnn_plugin.config.run_config import MEMORY_FORMATS
from mrcnn_plugin.errors import Interrupted
from mrcnn_plugin.reporting import finish

from .evaluate import evaluate
from .few_waits import CpuAMPTrainer, CudaAMPTrainer, Float32Trainer
from .hooks import InterruptCheckpointer, ProgressBar, StopSignals
from .kernels import depthwise_in_float32, fuse_frozen_norms

logger = logging.getLogger(__name__)


def _distributed(model: nn.Module, config: RunConfig) -> nn.Module:
    # DDP copies rank 0's parameters to the other processes, whose seeds differ.
    on_cpu = {"device_ids": None} if config.device == "cpu" else {}
    return create_ddp_model(model, **config.ddp, **on_cpu)


def _trainer(config: RunConfig, model: nn.Module) -> SimpleTrainer:
    kind = Float32Trainer
    if config.amp:
        kind = CudaAMPTrainer if config.device.startswith("cuda") else CpuAMPTrainer
    model.to(memory_format=MEMORY_FORMATS[config.memory_format])
    fuse_frozen_norms(model)
    if kind is CpuAMPTrainer:
        depthwise_in_float32(model)
    optimizer = config.build_optimizer(model)
    return kind(_distributed(model, config), config.build_train_loader(), optimizer)


def train(config: RunConfig, *, resume: bool = False) -> SimpleTrainer:
    """Trains to `config.max_iter`, evaluates, and writes what the run folder ends with.

    Args:
        resume: continue from the folder's last checkpoint, if it has one.

    Raises:
        Interrupted: SIGINT or SIGTERM came; unless it came before the first step, there is a checkpoint.
    """
    signals = StopSignals()
    with signals:
        model = config.build_model()
        logger.info(f"Model:\n{model}")
        trainer = _trainer(config, model)
        checkpointer = DetectionCheckpointer(trainer.model, config.output_dir, trainer=trainer)
        if not (resume and checkpointer.has_checkpoint()):
            _set_aside_metrics(config.output_dir)
        interrupt = InterruptCheckpointer(checkpointer, signals)
        results: dict[str, Any] = {}

        def evaluate_now() -> Results:
            final = trainer.iter + 1 >= config.max_iter
            with signals.interruptible():
                results.update(evaluate(config, model, final=final))
            return results

        trainer.register_hooks(_hooks(config, trainer, model, checkpointer, interrupt, evaluate_now))
        start = _load(config, checkpointer, trainer, resume)
        try:
            if start < config.max_iter:
                trainer.train(start, config.max_iter)
            else:
                logger.info(f"Already trained to iteration {config.max_iter}; evaluating")
                evaluate_now()
        except Interrupted as stop:
            # An evaluation between two steps was broken off: the step before it is not yet saved.
            if signals.received and start <= trainer.iter < config.max_iter - 1 and not interrupt.saved:
                interrupt.save()
            _report_interrupt(stop, checkpointer)
            raise
    finish(config, model, results, trainer.iter)
    return trainer


def _load(
    config: RunConfig, checkpointer: DetectionCheckpointer, trainer: SimpleTrainer, resume: bool
) -> int:
    """Loads weights, or everything when resuming; returns the first iteration to run."""
    if resume and not checkpointer.has_checkpoint():
        logger.info(f"--resume: no checkpoint in {config.output_dir} yet, starting from the beginning")
        check_weights(config.init_checkpoint, config.keys.init_checkpoint)
    checkpointer.resume_or_load(config.init_checkpoint, resume=resume)
    return trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0


def _hooks(
    config: RunConfig,
    trainer: SimpleTrainer,
    model: nn.Module,
    checkpointer: DetectionCheckpointer,
    interrupt: InterruptCheckpointer,
    evaluate_now,
) -> list[hooks.HookBase | None]:
    main_process = comm.is_main_process()
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(trainer.optimizer, config.build_scheduler(trainer.optimizer)),
        *config.build_hooks(model),
        hooks.PeriodicCheckpointer(checkpointer, **config.checkpointer) if main_process else None,
        ProgressBar() if main_process and sys.stderr.isatty() else None,
        hooks.EvalHook(config.eval_period, evaluate_now),
        hooks.PeriodicWriter(default_writers(config.output_dir, config.max_iter), period=config.log_period)
        if main_process
        else None,
        # Last, so that the interrupted step's metrics are written and its evaluation is done.
        interrupt,
    ]


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
