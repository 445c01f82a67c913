"""Evaluation of a model on the test sets of a config."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext

from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer
from mrcnn_plugin.config import Results, RunConfig, TestSet
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.evaluation import takes_rle
from mrcnn_plugin.modeling import returning_masks_as
from mrcnn_plugin.optimization import optimize_for_device
from mrcnn_plugin.reporting import finish


def evaluate(config: RunConfig, model: nn.Module, *, final: bool, suffix: str = "") -> Results:
    """Runs every evaluation of a config.

    Where the evaluators take COCO's RLE, the model makes its masks in that form at once. What runs is an
    optimized copy of the model, where the config does not refuse it.

    Args:
        model: not wrapped for distributed training.
        final: whether training is over; see `RunConfig.test_sets`.
        suffix: added to the names of all tasks.

    Returns:
        Task -> metric -> value on rank 0, empty on the others; with several test sets, those by their names.
    """
    if config.optimized_evaluation:
        compiled = config.compiled_evaluation
        model = optimize_for_device(model, config.evaluation_precision, compiled=compiled)
    by_name: dict[str, Results] = {}
    for test_set in config.test_sets(final=final):
        results = _evaluate_set(test_set, model)
        tasks = {f"{task}{test_set.suffix}{suffix}": metrics for task, metrics in results.items()}
        by_name[test_set.name] = OrderedDict({**by_name.get(test_set.name, {}), **tasks})
    return next(iter(by_name.values())) if len(by_name) == 1 else by_name


def _evaluate_set(test_set: TestSet, model: nn.Module) -> Results:
    masks: AbstractContextManager[None] = nullcontext()
    if test_set.wrap is not None:
        model = test_set.wrap(model)
    if takes_rle(test_set.evaluator):
        masks = returning_masks_as(model, "rle")
    with masks:
        results = inference_on_dataset(model, test_set.loader, test_set.evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def evaluate_weights(config: RunConfig, *, resume: bool = False) -> Results:
    """Evaluates the config's weights, or with `resume` the run folder's last checkpoint; writes results.json.

    Raises:
        ConfigError: there are no weights.
    """
    model = config.build_model()
    checkpointer = DetectionCheckpointer(model, config.output_dir, whole=True)
    if not config.init_checkpoint and not (resume and checkpointer.has_checkpoint()):
        raise ConfigError(
            f"--eval-only needs weights: give {config.keys.init_checkpoint}=FILE, or --resume for the last "
            f"one in {config.output_dir}"
        )
    extra = checkpointer.resume_or_load(config.init_checkpoint, resume=resume)
    results = evaluate(config, model, final=True)
    finish(config, model, results, extra.get("iteration", -1) + 1 or None)
    return results
