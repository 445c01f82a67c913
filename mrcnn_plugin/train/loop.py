"""The main job: trains or evaluates what a config describes, with Detectron2's trainers and hooks."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from mrcnn_plugin.checkpoint.atomic_checkpointer import AtomicCheckpointer, check_weights
from mrcnn_plugin.compat.warnings import silence
from mrcnn_plugin.config import fitting as datasets
from mrcnn_plugin.config.loading import changes, choose_device, find_config, load_config, save_config
from mrcnn_plugin.config.run_config import Job, Results, make_job
from mrcnn_plugin.errors import ConfigError, Interrupted
from mrcnn_plugin.reporting.results import finish

from .bfloat16_trainer import BFloat16Trainer
from .hooks import InterruptCheckpointer, ProgressBar, StopSignals

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> int:
    """Runs one process of the job that `arguments.argument_parser` describes.

    Returns:
        The exit status: 0, or 128 + the signal that stopped the run.

    Raises:
        ConfigError, DatasetError: what was given is wrong, found before any training.
    """
    job = setup(args)
    if args.eval_only:
        evaluate(job, resume=args.resume)
        return 0
    try:
        train(job, resume=args.resume)
    except Interrupted as stop:
        return 128 + stop.signum
    return 0


def setup(args: argparse.Namespace) -> Job:
    """Loads the config, fits it to the machine and the data, opens the run folder and checks the data."""
    silence()
    args.config_file = find_config(args.config_file)
    cfg, overridden = load_config(args.config_file, args.opts)
    datasets.register_datasets(cfg)
    notes = [choose_device(cfg), *datasets.fit_to_dataset(cfg, overridden)]
    job = make_job(cfg, overridden)
    _check(job, args)
    changed = changes(job.cfg, job.output_dir) if args.resume and comm.is_main_process() else []
    # Without its config_file: it would print the whole file, which config.yaml in the run folder holds.
    default_setup(job.cfg, argparse.Namespace(**{**vars(args), "config_file": ""}))
    setup_logger(job.output_dir, distributed_rank=comm.get_rank(), name="mrcnn_plugin")
    if comm.is_main_process():
        save_config(job.cfg, job.output_dir)
        metadata = datasets.dataset_metadata(job.cfg)
        datasets.save_metadata(metadata, os.path.join(job.output_dir, "metadata.json"))
    logger.info(" ".join([f"Config: {args.config_file}", *args.opts]))
    for note in filter(None, notes):
        logger.info(note)
    if changed:
        logger.warning("Resumed with a config that has changed:\n  " + "\n  ".join(changed))
    datasets.check_on_main_process(job.cfg, training=not args.eval_only)
    return job


def _check(job: Job, args: argparse.Namespace) -> None:
    size = comm.get_world_size()
    if job.batch_size is not None and (job.batch_size < 1 or job.batch_size % size):
        key = "SOLVER.IMS_PER_BATCH" if isinstance(job.cfg, CfgNode) else "dataloader.train.total_batch_size"
        raise ConfigError(f"{key} must be a positive multiple of the {size} processes, got {job.batch_size}")
    if not args.resume:
        check_weights(job.init_checkpoint, _weights_key(job))


def _weights_key(job: Job) -> str:
    return "MODEL.WEIGHTS" if isinstance(job.cfg, CfgNode) else "train.init_checkpoint"


def _distributed(model: nn.Module, job: Job) -> nn.Module:
    # DDP copies rank 0's parameters to the other processes, whose seeds differ.
    on_cpu = {"device_ids": None} if job.device == "cpu" else {}
    return create_ddp_model(model, **job.ddp, **on_cpu)


def _trainer(job: Job, model: nn.Module) -> SimpleTrainer:
    kind = SimpleTrainer
    if job.amp:
        kind = AMPTrainer if job.device.startswith("cuda") else BFloat16Trainer
    optimizer = job.optimizer(model)
    return kind(_distributed(model, job), job.train_loader(), optimizer)


def train(job: Job, *, resume: bool = False) -> SimpleTrainer:
    """Trains to `job.max_iter`, evaluates, and writes what the run folder ends with.

    Args:
        resume: continue from the folder's last checkpoint, if it has one.

    Raises:
        Interrupted: SIGINT or SIGTERM came; unless it came before the first step, there is a checkpoint.
    """
    signals = StopSignals()
    with signals:
        model = job.model()
        logger.info(f"Model:\n{model}")
        trainer = _trainer(job, model)
        checkpointer = AtomicCheckpointer(trainer.model, job.output_dir, trainer=trainer)
        if not (resume and checkpointer.has_checkpoint()):
            _set_aside_metrics(job.output_dir)
        interrupt = InterruptCheckpointer(checkpointer, signals)
        results: dict[str, Any] = {}

        def evaluate_now() -> Results:
            with signals.interruptible():
                results.update(job.evaluate(model))
            return results

        trainer.register_hooks(_hooks(job, trainer, model, checkpointer, interrupt, evaluate_now))
        start = _load(job, checkpointer, trainer, resume)
        try:
            if start < job.max_iter:
                trainer.train(start, job.max_iter)
            else:
                logger.info(f"Already trained to iteration {job.max_iter}; evaluating")
                evaluate_now()
        except Interrupted as stop:
            # An evaluation between two steps was broken off: the step before it is not yet saved.
            if signals.received and start <= trainer.iter < job.max_iter - 1 and not interrupt.saved:
                interrupt.save()
            _report_interrupt(stop, checkpointer)
            raise
    finish(job, model, results, trainer.iter)
    return trainer


def _load(job: Job, checkpointer: AtomicCheckpointer, trainer: SimpleTrainer, resume: bool) -> int:
    """Loads weights, or everything when resuming; returns the first iteration to run."""
    if resume and not checkpointer.has_checkpoint():
        logger.info(f"--resume: no checkpoint in {job.output_dir} yet, starting from the beginning")
        check_weights(job.init_checkpoint, _weights_key(job))
    checkpointer.resume_or_load(job.init_checkpoint, resume=resume)
    return trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0


def _hooks(
    job: Job,
    trainer: SimpleTrainer,
    model: nn.Module,
    checkpointer: AtomicCheckpointer,
    interrupt: InterruptCheckpointer,
    evaluate_now,
) -> list[hooks.HookBase | None]:
    main_process = comm.is_main_process()
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(trainer.optimizer, job.scheduler(trainer.optimizer)),
        *job.extra_hooks(model),
        hooks.PeriodicCheckpointer(checkpointer, **job.checkpointer) if main_process else None,
        ProgressBar() if main_process and sys.stderr.isatty() else None,
        hooks.EvalHook(job.eval_period, evaluate_now),
        hooks.PeriodicWriter(default_writers(job.output_dir, job.max_iter), period=job.log_period)
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


def _report_interrupt(stop: Interrupted, checkpointer: AtomicCheckpointer) -> None:
    if checkpointer.has_checkpoint():
        logger.info(f"Stopped by {stop}. Continue with --resume from {checkpointer.get_checkpoint_file()}")
    else:
        logger.info(f"Stopped by {stop} before the first checkpoint")


def evaluate(job: Job, *, resume: bool = False) -> Results:
    """Evaluates the config's weights, or with `resume` the run folder's last checkpoint; writes results.json.

    Raises:
        ConfigError: there are no weights.
    """
    model = job.model()
    checkpointer = AtomicCheckpointer(model, job.output_dir, whole=True)
    if not job.init_checkpoint and not (resume and checkpointer.has_checkpoint()):
        raise ConfigError(
            f"--eval-only needs weights: give {_weights_key(job)}=FILE, or --resume for the last one in "
            f"{job.output_dir}"
        )
    extra = checkpointer.resume_or_load(job.init_checkpoint, resume=resume)
    results = job.evaluate(model)
    finish(job, model, results, extra.get("iteration", -1) + 1 or None)
    return results
