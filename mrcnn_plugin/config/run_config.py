"""What a training run needs of a config, whichever of Detectron2's two kinds the config is."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, hooks
from detectron2.evaluation import (
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.evaluation.cityscapes import CityscapesInstanceEvaluator
from mrcnn_plugin.evaluation.coco_evaluation import COCOEvaluator

from .loading import Config, as_list
from .overrides import accepts, all_keys, nearest

Results = Mapping[str, Any]


class Job:
    """The parts of a run, built on demand from a config by Detectron2's own builders.

    Attributes:
        cfg: the config.
        output_dir: the run folder.
        max_iter: number of iterations.
        init_checkpoint: weights to start from; "" for none.
        amp: whether mixed precision is asked for.
        ddp: keyword arguments of `create_ddp_model`.
        checkpointer: keyword arguments of `hooks.PeriodicCheckpointer`.
        eval_period, log_period: in iterations; an eval_period of 0 evaluates at the end only.
        device: torch device string.
        batch_size: images an iteration, of all processes together; None where the config does not say.
        train_names, test_names: dataset names.
    """

    cfg: Config
    output_dir: str
    max_iter: int
    init_checkpoint: str
    amp: bool
    ddp: dict[str, Any]
    checkpointer: dict[str, Any]
    eval_period: int
    log_period: int
    device: str
    batch_size: int | None
    train_names: list[str]
    test_names: list[str]

    def model(self) -> nn.Module:
        """The model, on the job's device."""
        raise NotImplementedError

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of `model`'s parameters."""
        raise NotImplementedError

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """What `hooks.LRScheduler` steps: a torch scheduler, or fvcore's multiplier of the base rate."""
        raise NotImplementedError

    def train_loader(self) -> Iterable[list[dict]]:
        """Endless batches of mapped dataset dicts."""
        raise NotImplementedError

    def test_mapper(self) -> Callable[[dict], dict]:
        """Maps a dataset dict, or only {"file_name": ...}, to the model's input at test time."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> Results:
        """Task -> metric -> value on the test set; empty on all ranks but the first.

        With several test sets: dataset -> task -> metric -> value.
        """
        raise NotImplementedError

    def extra_hooks(self, model: nn.Module) -> list[hooks.HookBase]:
        """Hooks that come before the checkpointer."""
        return []

    def test_dicts(self) -> list[dict]:
        """Dataset dicts of the first test set, with annotations."""
        return get_detection_dataset_dicts(self.test_names[:1], filter_empty=False) if self.test_names else []


class LazyJob(Job):
    """A job of a LazyConfig that has the shape of Detectron2's `configs/common`."""

    def __init__(self, cfg: DictConfig, overridden: Iterable[str] = ()) -> None:
        train = cfg.train
        self.cfg = cfg
        self.overridden = set(overridden)
        self.output_dir = train.output_dir
        self.max_iter = train.max_iter
        self.init_checkpoint = train.get("init_checkpoint") or ""
        self.amp = bool(OmegaConf.select(train, "amp.enabled", default=False))
        self.ddp = dict(train.get("ddp") or {})
        self.checkpointer = dict(train.get("checkpointer") or {"period": 5000})
        self.eval_period = train.get("eval_period") or 0
        self.log_period = train.get("log_period") or 20
        self.device = train.device
        self.batch_size = OmegaConf.select(cfg, "dataloader.train.total_batch_size", default=None)
        self.train_names = as_list(OmegaConf.select(cfg, "dataloader.train.dataset.names", default=None))
        self.test_names = as_list(OmegaConf.select(cfg, "dataloader.test.dataset.names", default=None))

    def _instantiate(self, key: str) -> Any:
        node = OmegaConf.select(self.cfg, key)
        try:
            return instantiate(node)
        except TypeError as error:
            # A component that takes any keyword argument has handed an override on to one that does not.
            unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            given = [k for k in self.overridden if unexpected and k.endswith(f".{unexpected[1]}")]
            if not given:
                raise
            hint = nearest(given[0], all_keys(self.cfg, given[0].rpartition(".")[0]))
            raise ConfigError(f"unknown key {given[0]!r}{hint and f'; did you mean {hint!r}?'}") from error

    def model(self) -> nn.Module:
        return self._instantiate("model").to(self.device)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        params = self.cfg.optimizer.params
        params.model = model
        try:
            return self._instantiate("optimizer")
        finally:
            # The config must not keep the model alive.
            params.pop("model")

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return self._instantiate("lr_multiplier")

    def train_loader(self) -> Iterable[list[dict]]:
        return self._instantiate("dataloader.train")

    def test_mapper(self) -> Callable[[dict], dict]:
        return instantiate(self.cfg.dataloader.test.mapper)

    def evaluate(self, model: nn.Module) -> Results:
        evaluator = self.cfg.dataloader.get("evaluator")
        if evaluator is None:
            return {}
        single = isinstance(evaluator, DictConfig)
        if single and "output_dir" not in evaluator and accepts(evaluator, "output_dir"):
            evaluator.output_dir = os.path.join(self.output_dir, "inference")
        results = inference_on_dataset(model, instantiate(self.cfg.dataloader.test), instantiate(evaluator))
        if comm.is_main_process():
            print_csv_format(results)
        return results


class CfgNodeJob(Job):
    """A job of a CfgNode (YAML) config, built as Detectron2's DefaultTrainer builds it."""

    def __init__(self, cfg: CfgNode) -> None:
        # Scales batch size, schedule and rates where SOLVER.REFERENCE_WORLD_SIZE asks for it.
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.output_dir = cfg.OUTPUT_DIR
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.init_checkpoint = cfg.MODEL.WEIGHTS
        self.amp = cfg.SOLVER.AMP.ENABLED
        self.ddp = {"broadcast_buffers": False}
        self.checkpointer = {"period": cfg.SOLVER.CHECKPOINT_PERIOD}
        self.eval_period = cfg.TEST.EVAL_PERIOD
        self.log_period = 20
        self.device = cfg.MODEL.DEVICE
        self.batch_size = cfg.SOLVER.IMS_PER_BATCH
        self.train_names = as_list(cfg.DATASETS.TRAIN)
        self.test_names = as_list(cfg.DATASETS.TEST)

    def model(self) -> nn.Module:
        return build_model(self.cfg)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(self.cfg, model)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(self.cfg, optimizer)

    def train_loader(self) -> Iterable[list[dict]]:
        return build_detection_train_loader(self.cfg)

    def test_mapper(self) -> Callable[[dict], dict]:
        return DatasetMapper(self.cfg, is_train=False)

    def extra_hooks(self, model: nn.Module) -> list[hooks.HookBase]:
        if not (self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(model)):
            return []
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = build_detection_train_loader(cfg)
        return [hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)]

    def evaluate(self, model: nn.Module) -> Results:
        results = OrderedDict()
        for name in self.test_names:
            loader = build_detection_test_loader(self.cfg, name)
            results[name] = inference_on_dataset(model, loader, self._evaluator(name))
            if comm.is_main_process():
                print_csv_format(results[name])
        return results[self.test_names[0]] if len(self.test_names) == 1 else results

    def _evaluator(self, name: str) -> DatasetEvaluator:
        kind = MetadataCatalog.get(name).get("evaluator_type", "coco")
        folder = os.path.join(self.output_dir, "inference")
        if kind == "coco":
            sigmas = self.cfg.TEST.KEYPOINT_OKS_SIGMAS
            return COCOEvaluator(name, output_dir=folder, kpt_oks_sigmas=sigmas)
        if kind == "lvis":
            return LVISEvaluator(name, output_dir=folder)
        others = {
            "cityscapes_instance": CityscapesInstanceEvaluator,
            "pascal_voc": PascalVOCDetectionEvaluator,
        }
        if kind not in others:
            known = ", ".join(map(repr, ("coco", "lvis", *others)))
            raise ConfigError(f"dataset {name!r} has evaluator_type {kind!r}, expected one of {known}")
        return others[kind](name)


def make_job(cfg: Config, overridden: Iterable[str] = ()) -> Job:
    """The job of a config of either kind; `overridden` are the keys that the command line has set."""
    return CfgNodeJob(cfg) if isinstance(cfg, CfgNode) else LazyJob(cfg, overridden)
