"""LazyConfigs of the shape of Detectron2's `configs/common`, adapted to a run."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from torch import nn

from mrcnn_plugin.data import CocoSummary, as_names, hold_out, summarize
from mrcnn_plugin.errors import ConfigError, DatasetError, first_line

from .fine_tuning import Choice, FineTuning, measure_bfloat16_gain
from .run_config import (
    COCO_RESULTS_FILE,
    CocoResults,
    DataExpectations,
    Keys,
    Mapper,
    RunConfig,
    TestSet,
    checked_memory_format,
    checked_switch,
    refused,
)
from .training_keys import read_training_keys
from .valid_keys import accepts, check_key, lazy_keys, nearest, unknown_key

#: What a LazyConfig needs at its top level to be trained.
SECTIONS = ("model", "dataloader", "train", "optimizer", "lr_multiplier")
#: What `train.recipe` may be.
RECIPES = ("fine_tune",)


class LazyRunConfig(RunConfig):
    """A run that a LazyConfig describes, its parts built by `instantiate`."""

    keys = Keys(
        batch_size="dataloader.train.total_batch_size",
        init_checkpoint="train.init_checkpoint",
        seed="train.seed",
        output_dir="train.output_dir",
        device="train.device",
        learning_rate="optimizer.lr",
        scheduler="lr_multiplier",
        num_workers="dataloader.train.num_workers",
        evaluation_precision="train.evaluation_precision",
        compiled_evaluation="train.compiled_evaluation",
    )

    def __init__(self, raw: DictConfig, path: str, overridden: Iterable[str] = ()) -> None:
        super().__init__(raw, path, overridden)
        self._read()

    def _read(self) -> None:
        """Takes the settings from the config; again where they have changed since."""
        train = self.raw.train
        self.output_dir = train.get("output_dir") or "./output"
        self.max_iter = train.get("max_iter") or 0
        self.init_checkpoint = train.get("init_checkpoint") or ""
        self.amp = bool(self._get("train.amp.enabled"))
        self.ddp = dict(train.get("ddp") or {})
        self.checkpointer = dict(train.get("checkpointer") or {"period": 5000})
        self.eval_period = train.get("eval_period") or 0
        self.log_period = train.get("log_period") or 20
        self.float32_precision = train.get("float32_precision") or ""
        memory_format = train.get("memory_format") or "auto"
        self.memory_format = checked_memory_format(memory_format, "train.memory_format")
        self.fused_convolutions = bool(train.get("fused_convolutions", True))
        self.optimized_evaluation = bool(train.get("optimized_evaluation", True))
        self.evaluation_precision = train.get("evaluation_precision") or "float32"
        self.compiled_evaluation = checked_switch(
            train.get("compiled_evaluation", False), "train.compiled_evaluation"
        )
        self.compile = checked_switch(train.get("compile", False), "train.compile")
        self.batch_size = self._get(self.keys.batch_size)
        self.train_names = as_names(self._get("dataloader.train.dataset.names"))
        self.test_names = as_names(self._get("dataloader.test.dataset.names"))
        self.training = read_training_keys(train, self.keys.spell)

    def check_numbers(self) -> None:
        """Raises ConfigError where a setting of the loop is not a whole number of a sensible size."""
        for key, value, low, high in (
            ("train.max_iter", self.max_iter, 0, 10**9),
            ("train.eval_period", self.eval_period, 0, 10**9),
            ("train.log_period", self.log_period, 1, 10**9),
            ("train.checkpointer.period", self.checkpointer.get("period", 1), 1, 10**9),
            # Too few are told together with the number of processes.
            (self.keys.batch_size, self.batch_size, -(10**9), 100_000),
            (self.keys.num_workers, self._get(self.keys.num_workers), 0, 1000),
            ("dataloader.test.num_workers", self._get("dataloader.test.num_workers"), 0, 1000),
        ):
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"{key} must be a whole number from {low} to {high}, got {value!r}")

    def _is_overridden(self, key: str) -> bool:
        """Whether the command line has set the key, or a group that holds it."""
        return any(key == given or key.startswith(f"{given}.") for given in self.overridden)

    def _get(self, key: str, default: Any = None) -> Any:
        try:
            return OmegaConf.select(self.raw, key, default=default)
        except OmegaConfBaseException as error:
            # It refers to what is not there, or to itself.
            raise ConfigError(f"{self.path}: {key}: {first_line(error)}") from error

    def _update(self, key: str, value: Any) -> None:
        try:
            OmegaConf.update(self.raw, key, value)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{self.path}: {key} cannot be set: {first_line(error)}") from error

    def _set(self, key: str, value: Any) -> bool:
        """Sets a value that the config has and the command line has not set; whether it was another one."""
        old = self._get(key)
        if old is None or self._is_overridden(key) or old == value:
            return False
        self._update(key, value)
        return True

    @property
    def device(self) -> str:
        return str(self.raw.train.get("device") or "")

    @device.setter
    def device(self, device: str) -> None:
        OmegaConf.update(self.raw, "train.device", device, force_add=True)

    @property
    def seed(self) -> int | None:
        seed = self.raw.train.get("seed")
        return None if seed is None or seed < 0 else int(seed)

    @seed.setter
    def seed(self, seed: int) -> None:
        OmegaConf.update(self.raw, "train.seed", seed, force_add=True)

    @property
    def image_format(self) -> str:
        return self._get("dataloader.train.mapper.image_format", "BGR")

    def set_num_classes(self, number: int) -> list[str]:
        # The second key is a one-stage detector's.
        keys = ("model.roi_heads.num_classes", "model.num_classes")
        return [key for key in keys if self._set(key, number)]

    def set_num_keypoints(self, number: int) -> list[str]:
        key = "model.roi_heads.keypoint_head.num_keypoints"
        return [key] if self._set(key, number) else []

    def fit_to_data(self) -> list[Choice]:
        recipe, epochs = self.raw.train.get("recipe"), self.raw.train.get("epochs")
        if recipe not in (None, "", *RECIPES):
            known = ", ".join(map(repr, RECIPES))
            raise ConfigError(f"train.recipe must be one of {known}, or null, got {recipe!r}")
        if epochs is not None and not epochs > 0:
            raise ConfigError(f"train.epochs must be positive, got {epochs!r}")
        if not recipe and epochs is None:
            return []
        if not self.train_names:
            raise ConfigError(
                "give a training set: dataloader.train.dataset.names=coco:ANNOTATIONS.json:IMAGE_ROOT"
            )
        held_out = self._hold_out() if recipe else []
        batch_size = self.batch_size if self._is_overridden(self.keys.batch_size) or not recipe else None
        sizes = self._get("model.proposal_generator.anchor_generator.sizes", ())
        anchors = tuple(len(level) for level in sizes)
        max_iter = self.max_iter if self._is_overridden("train.max_iter") else None
        gain = measure_bfloat16_gain() if recipe and self.device == "cpu" else 1.0
        summary = self._training_summary()
        tuning = FineTuning(summary, self.device, epochs, batch_size, anchors, max_iter, gain)
        choices = tuning.choices() if recipe else [tuning.iterations()]
        places = (place for choice in choices for place in self._places(choice))
        chosen = [choice for choice in map(self._choose, places) if choice is not None]
        self._read()
        # The config that a run folder keeps holds what was chosen: of it nothing is to be derived again.
        for key in ("train.recipe", "train.epochs"):
            OmegaConf.update(self.raw, key, None, force_add=True)
        return [*held_out, *chosen]

    def _hold_out(self) -> list[Choice]:
        """A part of the training set to test on, where the config names no test set."""
        if self.test_names:
            return []
        if len(self.train_names) != 1:
            raise ConfigError(
                "name a test set: dataloader.test.dataset.names=coco:ANNOTATIONS.json:IMAGE_ROOT"
            )
        train, test = hold_out(self.train_names[0], os.path.join(self.output_dir, "split"))
        why = f"no test set was given: a fifth of {self.train_names[0]} is held out, chosen by seed 0"
        self.train_names, self.test_names = [train], [test]
        # The names on the command line were of the whole set: these take their place.
        for split, name in (("train", train), ("test", test)):
            OmegaConf.update(self.raw, f"dataloader.{split}.dataset.names", name)
        return [
            Choice("dataloader.train.dataset.names", train, why),
            Choice("dataloader.test.dataset.names", test, why),
        ]

    def _training_summary(self) -> CocoSummary:
        if len(self.train_names) != 1:
            raise ConfigError(f"train.recipe and train.epochs need one training set, got {self.train_names}")
        json_file = MetadataCatalog.get(self.train_names[0]).get("json_file")
        if json_file is None:
            raise ConfigError(f"train.recipe and train.epochs: {self.train_names[0]} is not in COCO's format")
        summary = summarize(json_file)
        if summary.images == summary.empty_images:
            raise DatasetError(f"{json_file}: no image has annotations; there is nothing to train on")
        return summary

    def _places(self, choice: Choice) -> list[Choice]:
        """The choice at every key that it concerns: a cascade has several predictors."""
        prefix, _, name = choice.key.rpartition(".")
        if not prefix.endswith(".box_predictor"):
            return [choice]
        return [replace(choice, key=key) for key in self._of_predictors(name)]

    def _choose(self, choice: Choice) -> Choice | None:
        """Sets a key unless the command line has; None where the config has no place for it."""
        if self._is_overridden(choice.key):
            return Choice(choice.key, self._get(choice.key), "given")
        parent, _, name = choice.key.rpartition(".")
        node = self._get(parent)
        try:
            check_key(self.raw, choice.key)
        except ConfigError:
            return None
        if node is None:
            return None
        OmegaConf.update(node, name, choice.value, merge=False, force_add=True)
        return choice

    def set_score_threshold(self, threshold: float) -> None:
        for key in [*self._of_predictors("test_score_thresh"), "model.test_score_thresh"]:
            if self._get(key) is not None:
                self._update(key, threshold)

    def _of_predictors(self, name: str) -> list[str]:
        """The key of this name of every box predictor; a cascade has one per stage."""
        predictors = self._get("model.roi_heads.box_predictors")
        stages = len(predictors) if isinstance(predictors, ListConfig) else 0
        parts = [f"box_predictors.{stage}" for stage in range(stages)] or ["box_predictor"]
        return [f"model.roi_heads.{part}.{name}" for part in parts]

    def expected_of_data(self) -> DataExpectations:
        heads = "model.roi_heads"
        return DataExpectations(
            num_classes=self._get(f"{heads}.num_classes"),
            num_keypoints=self._get(f"{heads}.keypoint_head.num_keypoints"),
            needs_masks=self._get(f"{heads}.mask_head") is not None,
            mask_format=self._get("dataloader.train.mapper.instance_mask_format", "polygon"),
            max_dets=self._max_dets(),
        )

    def _max_dets(self) -> int | None:
        """COCO's 100, unless the evaluator is told another number; the model may give fewer."""
        # The last stage of a cascade gives the detections.
        topk = self._get(self._of_predictors("test_topk_per_image")[-1]) or 100
        return min(topk, self._get("dataloader.evaluator.max_dets_per_image") or 100)

    def _instantiate(self, key: str) -> Any:
        try:
            return instantiate(self._get(key))
        except (ConfigError, DatasetError):
            raise
        except Exception as error:
            # A component that takes any keyword argument has handed an override on to one that does not.
            unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            given = [k for k in self.overridden if unexpected and k.endswith(f".{unexpected[1]}")]
            if given:
                hint = nearest(given[0], lazy_keys(self.raw, given[0].rpartition(".")[0]))
                raise unknown_key(given[0], hint) from error
            raise self._refused(key, error) from error

    def _refused(self, key: str, error: Exception) -> ConfigError:
        """Names the innermost component below `key` that cannot be built."""
        node = self._get(key)
        if OmegaConf.is_config(node):
            for name in node if isinstance(node, DictConfig) else range(len(node)):
                below = f"{key}.{name!s}"
                try:
                    instantiate(self._get(below))
                except Exception as inner:
                    return self._refused(below, inner)
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        return refused(key, getattr(target, "__qualname__", target), error)

    def build_model(self) -> nn.Module:
        model = self._instantiate("model")
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"model must be a component that is a torch.nn.Module, got {type(model).__name__}"
            )
        return model.to(self.device)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        params = self.raw.optimizer.params
        params.model = model
        try:
            return self._instantiate("optimizer")
        finally:
            # The config must not keep the model alive.
            params.pop("model")

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return self._instantiate("lr_multiplier")

    def build_train_loader(self) -> Iterable[list[dict]]:
        return self._instantiate("dataloader.train")

    def build_validation_loader(self) -> Iterable[list[dict]]:
        if not self.test_names:
            raise ConfigError("train.validation_loss needs a test set: dataloader.test.dataset.names")
        mapper = self._get("dataloader.train.mapper")
        if not isinstance(mapper, DictConfig) or not accepts(mapper, "augmentations"):
            raise ConfigError(
                "train.validation_loss: dataloader.train.mapper has no augmentations to replace"
            )
        # Training's own annotations and filters, on the test sets' names: some keys follow others.
        loaders = copy.deepcopy(self.raw).dataloader
        loaders.train.dataset.names = loaders.test.dataset.names
        loaders.train.mapper.augmentations = loaders.test.mapper.augmentations
        if accepts(loaders.train.mapper, "copy_paste"):
            loaders.train.mapper.copy_paste = None
        dataset, mapper = instantiate(loaders.train.dataset), instantiate(loaders.train.mapper)
        workers = loaders.test.get("num_workers") or 0
        return build_detection_test_loader(dataset, mapper=mapper, num_workers=workers)

    def build_test_mapper(self) -> Mapper:
        return self._instantiate("dataloader.test.mapper")

    def test_sets(self, *, final: bool) -> Iterator[TestSet]:
        evaluator = self.raw.dataloader.get("evaluator")
        if evaluator is None:
            return
        single = isinstance(evaluator, DictConfig)
        if single and "output_dir" not in evaluator and accepts(evaluator, "output_dir"):
            evaluator.output_dir = os.path.join(self.output_dir, "inference")
        loader = self._instantiate("dataloader.test")
        yield TestSet(", ".join(self.test_names), loader, self._instantiate("dataloader.evaluator"))

    def coco_results(self) -> CocoResults | None:
        evaluators = self._get("dataloader.evaluator")
        for evaluator in [evaluators] if isinstance(evaluators, DictConfig) else evaluators or ():
            folder, name = evaluator.get("output_dir"), evaluator.get("dataset_name")
            if folder and isinstance(name, str):
                sigmas = tuple(evaluator.get("kpt_oks_sigmas") or ())
                return CocoResults(name, os.path.join(folder, COCO_RESULTS_FILE), sigmas)
        return None

    def save(self, path: str) -> None:
        LazyConfig.save(self.raw, path)

    def reloads(self, path: str) -> bool:
        # LazyConfig.save writes functions by their names; those of a config file itself have none.
        try:
            targets = list(_targets(OmegaConf.to_container(LazyConfig.load(path), resolve=False)))
            return all(callable(target) or locate(target) is not None for target in targets)
        except Exception:
            return False


def _targets(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _targets(child)


def adapt(raw: DictConfig, path: str, overridden: Iterable[str]) -> LazyRunConfig:
    """A LazyConfig as a `RunConfig`.

    Raises:
        ConfigError: it lacks a part that training needs.
    """
    missing = [section for section in SECTIONS if section not in raw]
    if missing:
        raise ConfigError(
            f"{path} is not a LazyConfig of Detectron2's shape: it does not define {', '.join(missing)}"
        )
    _check_shortcuts(raw, path)
    try:
        config = LazyRunConfig(raw, path, overridden)
    except (TypeError, ValueError, AttributeError) as error:
        why = first_line(error)
        raise ConfigError(f"{path}: a section does not have the form of Detectron2's: {why}") from error
    config.check_numbers()
    return config


def _check_shortcuts(raw: DictConfig, path: str) -> None:
    """Refuses a name at the top of the file for a part of a section, which refers to what is not above it."""
    for key in map(str, raw.keys() - set(SECTIONS)):
        try:
            OmegaConf.to_container(OmegaConf.create({key: raw[key]}), resolve=True)
        except InterpolationKeyError as error:
            raise ConfigError(
                f"{path}: {key}: {first_line(error)}. Every name at the top of a config file is a key of the "
                f"config; one that only abbreviates a part of it begins with an underscore: _{key}"
            ) from error
