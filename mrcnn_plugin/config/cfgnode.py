"""CfgNode (YAML) configs, read as Detectron2's DefaultTrainer and tools/train_net.py read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import DefaultTrainer, hooks
from detectron2.evaluation import DatasetEvaluator, LVISEvaluator, PascalVOCDetectionEvaluator
from detectron2.evaluation.testing import verify_results
from detectron2.modeling import DatasetMapperTTA, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from mrcnn_plugin.data import as_names
from mrcnn_plugin.errors import ConfigError, DatasetError
from mrcnn_plugin.evaluation.cityscapes import CityscapesInstanceEvaluator
from mrcnn_plugin.evaluation.coco_evaluation import COCOEvaluator
from mrcnn_plugin.modeling.test_time_augmentation import flip_indices

from .run_config import (
    COCO_RESULTS_FILE,
    CocoResults,
    DataExpectations,
    Keys,
    Mapper,
    Results,
    RunConfig,
    TestSet,
    checked_memory_format,
    refused,
)
from .training_keys import read_training_keys

# By the evaluator_type of a data set; these take its name alone.
_EVALUATORS: dict[str, Callable[[str], DatasetEvaluator]] = {
    "cityscapes_instance": CityscapesInstanceEvaluator,
    "pascal_voc": PascalVOCDetectionEvaluator,
}


class CfgNodeRunConfig(RunConfig):
    """A run that a CfgNode describes, its parts built by Detectron2's `build_*` functions."""

    keys = Keys(
        batch_size="SOLVER.IMS_PER_BATCH",
        init_checkpoint="MODEL.WEIGHTS",
        seed="SEED",
        output_dir="OUTPUT_DIR",
        device="MODEL.DEVICE",
        learning_rate="SOLVER.BASE_LR",
        scheduler="SOLVER.LR_SCHEDULER_NAME",
        num_workers="DATALOADER.NUM_WORKERS",
    )

    def __init__(self, raw: CfgNode, path: str, overridden: Iterable[str] = ()) -> None:
        # Scales batch size, schedule and rates where SOLVER.REFERENCE_WORLD_SIZE asks for it.
        raw = DefaultTrainer.auto_scale_workers(raw, comm.get_world_size())
        super().__init__(raw, path, overridden)
        self.output_dir = raw.OUTPUT_DIR
        self.max_iter = raw.SOLVER.MAX_ITER
        self.init_checkpoint = raw.MODEL.WEIGHTS
        self.amp = raw.SOLVER.AMP.ENABLED
        self.ddp = {"broadcast_buffers": False}
        self.checkpointer = {"period": raw.SOLVER.CHECKPOINT_PERIOD}
        self.eval_period = raw.TEST.EVAL_PERIOD
        self.log_period = 20
        self.float32_precision = raw.get("FLOAT32_PRECISION", "")
        memory_format = raw.TRAIN.get("MEMORY_FORMAT", "auto")
        self.memory_format = checked_memory_format(memory_format, "TRAIN.MEMORY_FORMAT")
        self.fused_convolutions = raw.TRAIN.get("FUSED_CONVOLUTIONS", True)
        self.optimized_evaluation = raw.TEST.get("OPTIMIZED", True)
        self.batch_size = raw.SOLVER.IMS_PER_BATCH
        self.train_names = as_names(raw.DATASETS.TRAIN)
        self.test_names = as_names(raw.DATASETS.TEST)
        self.training = read_training_keys(_lower(raw.TRAIN), self.keys.spell)
        _check_augmented_test(raw)

    @property
    def device(self) -> str:
        return self.raw.MODEL.DEVICE

    @device.setter
    def device(self, device: str) -> None:
        self._update(["MODEL.DEVICE", device])

    @property
    def seed(self) -> int | None:
        return None if self.raw.SEED < 0 else self.raw.SEED

    @seed.setter
    def seed(self, seed: int) -> None:
        self._update(["SEED", seed])

    @property
    def image_format(self) -> str:
        return self.raw.INPUT.FORMAT

    def _update(self, pairs: list[Any]) -> None:
        frozen = self.raw.is_frozen()
        self.raw.defrost()
        self.raw.merge_from_list(pairs)
        if frozen:
            self.raw.freeze()

    def _set(self, key: str, old: int, value: int) -> list[str]:
        if key in self.overridden or old == value:
            return []
        self._update([key, value])
        return [key]

    def set_num_classes(self, number: int) -> list[str]:
        model = self.raw.MODEL
        if model.META_ARCHITECTURE == "RetinaNet":
            return self._set("MODEL.RETINANET.NUM_CLASSES", model.RETINANET.NUM_CLASSES, number)
        return self._set("MODEL.ROI_HEADS.NUM_CLASSES", model.ROI_HEADS.NUM_CLASSES, number)

    def set_num_keypoints(self, number: int) -> list[str]:
        old = self.raw.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        return self._set("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", old, number)

    def set_score_threshold(self, threshold: float) -> None:
        for head in ("ROI_HEADS", "RETINANET"):
            self._update([f"MODEL.{head}.SCORE_THRESH_TEST", threshold])

    def expected_of_data(self) -> DataExpectations:
        model = self.raw.MODEL
        return DataExpectations(
            num_classes=model.ROI_HEADS.NUM_CLASSES,
            num_keypoints=model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if model.KEYPOINT_ON else None,
            needs_masks=model.MASK_ON,
            mask_format=self.raw.INPUT.MASK_FORMAT,
            max_dets=self.raw.TEST.DETECTIONS_PER_IMAGE,
        )

    def build_model(self) -> nn.Module:
        return self._build("MODEL", build_model, self.raw)

    def _augmentations(self) -> DatasetMapperTTA:
        return DatasetMapperTTA(self.raw)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return self._build("SOLVER", build_optimizer, self.raw, model)

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return self._build("SOLVER", build_lr_scheduler, self.raw, optimizer)

    def build_train_loader(self) -> Iterable[list[dict]]:
        return self._build("DATALOADER", build_detection_train_loader, self.raw)

    def build_validation_loader(self) -> Iterable[list[dict]]:
        if not self.test_names:
            raise ConfigError("TRAIN.VALIDATION_LOSS needs a test set: DATASETS.TEST")
        model = self.raw.MODEL
        dataset = get_detection_dataset_dicts(
            self.test_names,
            filter_empty=self.raw.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=model.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if model.KEYPOINT_ON else 0,
        )
        mapper = DatasetMapper(self.raw, True, augmentations=build_augmentation(self.raw, False))
        return build_detection_test_loader(
            dataset, mapper=mapper, num_workers=self.raw.DATALOADER.NUM_WORKERS
        )

    @property
    def evaluates_more_at_the_end(self) -> bool:
        return self.raw.TEST.AUG.ENABLED

    def build_test_mapper(self) -> Mapper:
        return self._build("INPUT", DatasetMapper, self.raw, is_train=False)

    def _build(self, key: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ConfigError, DatasetError):
            raise
        except Exception as error:
            raise refused(*_section_of(error, self.raw, key), error) from error

    def build_hooks(self, model: nn.Module) -> list[hooks.HookBase]:
        precise_bn = self.raw.TEST.PRECISE_BN
        if not precise_bn.ENABLED:
            return []
        if not get_bn_modules(model):
            raise ConfigError(
                "TEST.PRECISE_BN.ENABLED: no BatchNorm of this model computes statistics in training "
                "(MODEL.RESNETS.NORM and the heads' NORM); set it to False, or the norm to BN or SyncBN"
            )
        cfg = self.raw.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = build_detection_train_loader(cfg)
        return [hooks.PreciseBN(self.eval_period, model, loader, precise_bn.NUM_ITER)]

    def test_sets(self, *, final: bool) -> Iterator[TestSet]:
        for name in self.test_names:
            loader = build_detection_test_loader(self.raw, name)
            yield TestSet(name, loader, self._evaluator(name, "inference"))
            if final and self.raw.TEST.AUG.ENABLED:
                evaluator = self._evaluator(name, "inference_TTA")
                wrap = partial(self.augmented, metadata=MetadataCatalog.get(name))
                yield TestSet(name, loader, evaluator, "_TTA", wrap)

    def coco_results(self) -> CocoResults | None:
        if not self.test_names or self._evaluator_type(self.test_names[-1]) != "coco":
            return None
        path = os.path.join(self.output_dir, "inference", COCO_RESULTS_FILE)
        return CocoResults(self.test_names[-1], path, tuple(self.raw.TEST.KEYPOINT_OKS_SIGMAS))

    def _evaluator(self, name: str, folder: str) -> DatasetEvaluator:
        folder = os.path.join(self.output_dir, folder)
        kind = self._evaluator_type(name)
        if kind == "coco":
            # As many detections are scored as the model gives; COCO's own number is 100.
            max_dets = self.raw.TEST.DETECTIONS_PER_IMAGE
            return COCOEvaluator(
                name,
                output_dir=folder,
                kpt_oks_sigmas=self.raw.TEST.KEYPOINT_OKS_SIGMAS,
                max_dets_per_image=max_dets if max_dets > 100 else None,
            )
        if kind == "lvis":
            return LVISEvaluator(name, output_dir=folder)
        return _EVALUATORS[kind](name)

    def _evaluator_type(self, name: str) -> str:
        kind = MetadataCatalog.get(name).get("evaluator_type", "coco")
        known = ("coco", "lvis", *_EVALUATORS)
        if kind not in known:
            expected = ", ".join(map(repr, known))
            raise ConfigError(f"data set {name!r} has evaluator_type {kind!r}, expected one of {expected}")
        return kind

    def check_evaluation(self) -> None:
        for name in self.test_names:
            self._evaluator_type(name)
            if self.raw.TEST.AUG.ENABLED and self.raw.TEST.AUG.FLIP and self.raw.MODEL.KEYPOINT_ON:
                flip_indices(MetadataCatalog.get(name))

    def check_results(self, results: Results) -> None:
        absent = [task for task, *_ in self.raw.TEST.EXPECTED_RESULTS if task not in results]
        if absent:
            raise ConfigError(
                f"TEST.EXPECTED_RESULTS: no task {absent[0]!r} in the results, which have {sorted(results)}"
            )
        verify_results(self.raw, results)

    def save(self, path: str) -> None:
        Path(path).write_text(self.raw.dump())


def _lower(node: CfgNode) -> dict[str, Any]:
    """A section as a dict of LazyConfig's spelling."""
    return {key.lower(): _lower(v) if isinstance(v, CfgNode) else v for key, v in node.items()}


def _check_augmented_test(cfg: CfgNode) -> None:
    """Refuses before training what Detectron2's test-time augmentation asserts after it."""
    if cfg.TEST.AUG.ENABLED and cfg.MODEL.LOAD_PROPOSALS:
        raise ConfigError("TEST.AUG.ENABLED: test-time augmentation takes no precomputed proposals")


def _section_of(error: Exception, cfg: CfgNode, key: str) -> tuple[str, str]:
    """The section of MODEL whose component raised the error, and that component; else `key` and nothing."""
    if key != "MODEL":
        return key, ""
    components = {node["NAME"]: f"MODEL.{name}" for name, node in cfg.MODEL.items() if _has_name(node)}
    found = key, ""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        for name in (type(frame.f_locals.get("self")).__name__, frame.f_code.co_name):
            if name in components:
                # Later frames are deeper: the innermost component counts.
                found = components[name], name
        trace = trace.tb_next
    return found


def _has_name(node: object) -> bool:
    return isinstance(node, CfgNode) and isinstance(node.get("NAME"), str)
