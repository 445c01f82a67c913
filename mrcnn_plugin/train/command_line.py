"""The body of train_net.py: its command line, and what is set up and checked before a run."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
from collections.abc import Callable

import torch
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mrcnn_plugin.checkpoint import check_weights
from mrcnn_plugin.compat.warnings import silence_warnings
from mrcnn_plugin.config import RunConfig, dataset_metadata, fit_to_dataset, fit_to_device, load_config
from mrcnn_plugin.config.fine_tuning import table_of
from mrcnn_plugin.config.saving import changes, save_config, saved_keys
from mrcnn_plugin.config.training_keys import EMA_SUFFIX
from mrcnn_plugin.data import check_datasets, save_metadata
from mrcnn_plugin.errors import ConfigError, DatasetError, Interrupted
from mrcnn_plugin.optimization import check_precision

from .evaluate import evaluate_weights
from .loop import train
from .run_folder import open_folder
from .trackers import check_trackers
from .validation_loss import PREFIX as VALIDATION

logger = logging.getLogger(__name__)

_EPILOG = """\
Overrides follow the options: key=value for a LazyConfig (.py), KEY VALUE or KEY=VALUE for YAML.

  train_net.py --config-file configs/Shapes/mask_rcnn_R_18_FPN.py train.max_iter=300
  train_net.py --config-file FILE --resume                  continue after Ctrl-C or a crash
  train_net.py --config-file FILE --eval-only train.init_checkpoint=output/model_final.pth
  train_net.py --config-file FILE --num-gpus 8              or: torchrun --nproc-per-node 8 train_net.py ...
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's own options; overrides may stand before, between and after them."""
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train or evaluate a Detectron2 config.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="LazyConfig (.py) or YAML file, or name"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the run folder's last checkpoint"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1, metavar="M", help="machines in all")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="R", help="this machine's number, from 0"
    )
    parser.add_argument(
        "--dist-url", default="auto", metavar="U", help="where processes meet; auto: a free local port"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs one process of the training or evaluation that `argument_parser` describes.

    Returns:
        The exit status: 0, or 128 + the signal that stopped the run.

    Raises:
        ConfigError, DatasetError: what was given is wrong, found before any training.
    """
    config = setup(args)
    if args.eval_only:
        evaluate_weights(config, resume=args.resume)
        return 0
    try:
        train(config, resume=args.resume)
    except Interrupted as stop:
        return 128 + stop.signum
    return 0


def setup(args: argparse.Namespace) -> RunConfig:
    """Loads the config, fits it to the machine and the data, opens the run folder and checks the data."""
    silence_warnings()
    config = load_config(args.config_file, args.opts)
    notes = [fit_to_device(config), *fit_to_dataset(config)]
    choices = config.fit_to_data()
    _check_batch_size(config)
    config.check_evaluation()
    _check_optimization(config)
    if not args.eval_only:
        _check_training(config)
    if not args.resume:
        check_weights(config.init_checkpoint, config.keys.init_checkpoint)
    _open_run_folder(config, args)
    for note in filter(None, notes):
        logger.info(note)
    if choices:
        logger.info(f"Settings that follow from the data; each is a key to override:\n{table_of(choices)}")
    check_data(config, training=not args.eval_only)
    return config


def _check_batch_size(config: RunConfig) -> None:
    size, batch_size = comm.get_world_size(), config.batch_size
    if batch_size is not None and (batch_size < 1 or batch_size % size):
        raise ConfigError(
            f"{config.keys.batch_size} must be a positive multiple of the {size} processes, got {batch_size}"
        )


def _check_optimization(config: RunConfig) -> None:
    """Finds before a run what `optimize_for_device` would refuse after it."""
    precision, compiled = config.keys.evaluation_precision, config.keys.compiled_evaluation
    check_precision(config.evaluation_precision, precision)
    wanted = {precision: config.evaluation_precision != "float32", compiled: config.compiled_evaluation}
    for key in [key for key, given in wanted.items() if given]:
        if not config.optimized_evaluation:
            raise ConfigError(f"{key} is of the optimized copy, whose evaluation the config refuses")
        if config.device != "cpu" and (key == compiled or config.evaluation_precision == "bfloat16"):
            raise ConfigError(f"{key} is for evaluation on the CPU, this run is on {config.device}")


def _check_training(config: RunConfig) -> None:
    """Finds before training what its keys could only stumble over in it."""
    keys, spell = config.training, config.keys.spell
    check_trackers(keys.trackers, spell("train.trackers"))
    if keys.early_stopping.metric and config.eval_period <= 0:
        raise ConfigError(
            f"{spell('train.early_stopping')} needs evaluations during the run: set the evaluation period"
        )
    if keys.validation_loss and not config.test_names:
        raise ConfigError(f"{spell('train.validation_loss')} needs a test set")
    for key, metric in keys.metrics.items():
        if metric.startswith(VALIDATION) and not keys.validation_loss:
            raise ConfigError(f"{spell(key)} {metric!r} needs {spell('train.validation_loss')}=True")
        if EMA_SUFFIX in metric and not keys.ema.decay:
            raise ConfigError(f"{spell(key)} {metric!r} needs {spell('train.ema.decay')}, such as 0.999")


def _choose_seed(config: RunConfig, resume: bool) -> None:
    """A run without a seed gets one, which its folder's config remembers: so it can be resumed exactly."""
    if config.seed is not None:
        return
    saved = saved_keys(config.output_dir).get(config.keys.seed, "") if resume else ""
    drawn = comm.shared_random_seed()
    config.seed = int(saved) if saved.isdigit() else drawn


def _open_run_folder(config: RunConfig, args: argparse.Namespace) -> None:
    """Creates the run folder, with config, metadata and logs, and keeps other runs out of it."""
    _on_main_process(lambda: open_folder(config.output_dir, config.keys.output_dir))
    if not args.eval_only:
        _choose_seed(config, args.resume)
    changed = changes(config) if args.resume and comm.is_main_process() else []
    # Without its config_file: it would print the whole file, which config.yaml in the run folder holds.
    default_setup(config.raw, argparse.Namespace(**{**vars(args), "config_file": ""}))
    if config.float32_precision:
        # Detectron2's main branch does this itself, 0.6 does not.
        torch.set_float32_matmul_precision(config.float32_precision)
    setup_logger(config.output_dir, distributed_rank=comm.get_rank(), name="mrcnn_plugin")
    if comm.is_main_process():
        save_config(config)
        save_metadata(dataset_metadata(config), os.path.join(config.output_dir, "metadata.json"))
    logger.info(" ".join([f"Config: {config.path}", *args.opts]))
    if changed:
        logger.warning("Resumed with a config that has changed:\n  " + "\n  ".join(changed))


def check_data(config: RunConfig, *, training: bool) -> None:
    """Checks the annotations once, on rank 0, while the other processes wait; logs what they hold.

    Args:
        training: whether the training sets are used too.

    Raises:
        DatasetError: on every process, with what rank 0 found.
    """
    _on_main_process(lambda: _check_data(config, training))


def _on_main_process(function: Callable[[], None]) -> None:
    """Runs it on rank 0, while the others wait; what it raises of ours is raised by every process."""
    problem: ConfigError | DatasetError | None = None
    if comm.is_main_process():
        try:
            function()
        except (ConfigError, DatasetError) as error:
            problem = type(error)(str(error))
    problem = comm.all_gather(problem)[0]
    if problem is not None:
        raise problem


def _check_data(config: RunConfig, training: bool) -> None:
    expected = dataclasses.asdict(config.expected_of_data())
    test = [name for name in config.test_names if not (training and name in config.train_names)]
    sets = [("Training", config.train_names if training else []), ("Test", test)]
    for kind, names in sets:
        if names:
            report = check_datasets(names, training=kind == "Training", **expected)
            logger.info(f"{kind} data:\n{report}")
