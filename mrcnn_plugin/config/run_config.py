"""What the programs need of a config, whichever of Detectron2's two kinds it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.engine.hooks import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import DatasetMapperTTA
from omegaconf import DictConfig
from torch import nn

from mrcnn_plugin.errors import TRACEBACK, ConfigError, first_line
from mrcnn_plugin.modeling import RCNNWithTTA, RelativeScales

from .fine_tuning import Choice
from .training_keys import TrainingKeys

#: What `memory_format` may be; None is the device's own, see `memory_format_of`.
MEMORY_FORMATS = {
    "auto": None,
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}

#: task -> metric -> value; with several test sets, data set -> task -> metric -> value.
Results = Mapping[str, Any]
Mapper = Callable[[dict], dict]
#: What Detectron2's COCOEvaluator calls its results file.
COCO_RESULTS_FILE = "coco_instances_results.json"


@dataclass(frozen=True)
class Keys:
    """How the user spells the settings that messages name."""

    batch_size: str
    init_checkpoint: str
    seed: str
    output_dir: str
    device: str
    learning_rate: str
    scheduler: str
    num_workers: str

    def spell(self, key: str) -> str:
        """The user's spelling of a key of `TrainingKeys`, which is a LazyConfig's."""
        return key if self.seed.islower() else key.upper()


@dataclass(frozen=True)
class DataExpectations:
    """What a model's heads and its mapper expect of data.

    Attributes:
        num_classes, num_keypoints: of the heads; None where the model has no such head or does not say.
        needs_masks: whether there is a mask head.
        mask_format: the mapper's instance_mask_format, "polygon" or "bitmask".
        max_dets: how many detections of an image are scored; None where the config does not say.
    """

    num_classes: int | None
    num_keypoints: int | None
    needs_masks: bool
    mask_format: str
    max_dets: int | None


@dataclass(frozen=True)
class CocoResults:
    """Detections that an evaluation leaves in COCO's format.

    Attributes:
        dataset: the name of the test set.
        path: of the results file.
        kpt_oks_sigmas: those that the config gives; empty for the data set's own.
    """

    dataset: str
    path: str
    kpt_oks_sigmas: tuple[float, ...] = ()


@dataclass
class TestSet:
    """One evaluation.

    Attributes:
        name: of its data set; several names are joined by commas.
        loader: batches of mapped dataset dicts.
        evaluator: one, or a list of them.
        suffix: added to the names of its tasks in the results.
        wrap: makes the model to evaluate from the one that was trained, for test-time augmentation.
    """

    # Not a test of pytest's.
    __test__ = False

    name: str
    loader: Iterable[list[dict]]
    evaluator: DatasetEvaluator | list[DatasetEvaluator]
    suffix: str = ""
    wrap: Callable[[nn.Module], nn.Module] | None = None


def checked_memory_format(name: str, key: str) -> str:
    """`name`, one of `MEMORY_FORMATS`.

    Raises:
        ConfigError: it is none, as the value of this key.
    """
    if name not in MEMORY_FORMATS:
        *others, last = map(repr, MEMORY_FORMATS)
        known = f"{', '.join(others)} or {last}"
        raise ConfigError(f"{key} must be {known}, got {name!r}")
    return name


def memory_format_of(name: str, device: str) -> torch.memory_format:
    """The memory format of weights and maps that `name`, one of `MEMORY_FORMATS`, means on a device.

    "auto" is channels_last on the CPU, where training and RoIAlign were measured to be faster so, and
    contiguous elsewhere, where nothing was measured. It does not depend on a measurement of the moment, which
    would let a resumed run differ from the unbroken one.
    """
    given = MEMORY_FORMATS[name]
    if given is not None:
        return given
    on_cpu = device == "cpu" and torch.backends.mkldnn.is_available()
    return torch.channels_last if on_cpu else torch.contiguous_format


class RunConfig(ABC):
    """A config, adapted once when it is loaded; nothing after that asks which kind it was.

    Attributes:
        raw: the config itself, for Detectron2's own functions.
        path: the file that it was loaded from.
        overridden: dotted keys that the command line has set.
        keys: the user's spelling of some settings.
        output_dir: the run folder.
        max_iter: number of iterations.
        init_checkpoint: weights to start from; "" for none.
        amp: whether mixed precision is requested.
        ddp: keyword arguments of `create_ddp_model`.
        checkpointer: keyword arguments of `hooks.PeriodicCheckpointer`.
        eval_period, log_period: in iterations; an eval_period of 0 evaluates at the end only.
        batch_size: images per iteration, of all processes together; None where the config does not say.
        float32_precision: of `torch.set_float32_matmul_precision`; "" leaves it alone.
        memory_format: of weights and maps in training: "auto", "contiguous" or "channels_last".
        fused_convolutions: whether convolutions train with norms and activations inside, on the CPU.
        optimized_evaluation: whether what is evaluated is an optimized copy of the model, on the CPU.
        train_names, test_names: names of data sets.
        training: the keys of the training loop.
    """

    keys: Keys
    output_dir: str
    max_iter: int
    init_checkpoint: str
    amp: bool
    ddp: dict[str, Any]
    checkpointer: dict[str, Any]
    eval_period: int
    log_period: int
    batch_size: int | None
    float32_precision: str
    memory_format: str
    fused_convolutions: bool
    optimized_evaluation: bool
    train_names: list[str]
    test_names: list[str]
    training: TrainingKeys

    def __init__(self, raw: DictConfig | CfgNode, path: str, overridden: Iterable[str] = ()) -> None:
        self.raw = raw
        self.path = path
        self.overridden = frozenset(overridden)

    @property
    @abstractmethod
    def device(self) -> str:
        """Torch device; "" where none is given."""

    @device.setter
    @abstractmethod
    def device(self, device: str) -> None: ...

    @property
    @abstractmethod
    def seed(self) -> int | None:
        """Of the run's random numbers; None where none is given."""

    @seed.setter
    @abstractmethod
    def seed(self, seed: int) -> None: ...

    @property
    @abstractmethod
    def image_format(self) -> str:
        """Of the images that the training mapper gives, such as "BGR"."""

    @abstractmethod
    def set_num_classes(self, number: int) -> list[str]:
        """Gives every head this number of classes, unless the command line has set one.

        Returns:
            The dotted keys that were changed.
        """

    @abstractmethod
    def set_num_keypoints(self, number: int) -> list[str]:
        """As `set_num_classes`, for keypoints."""

    def fit_to_data(self) -> list[Choice]:
        """Chooses the settings that the config wants to follow from its data; a hold-out set among them.

        Returns:
            What was chosen, the command line's own settings included, with a reason each.

        Raises:
            ConfigError: the config asks for something that does not exist.
            DatasetError: the data cannot be read.
        """
        return []

    @abstractmethod
    def set_score_threshold(self, threshold: float) -> None:
        """Lets the model drop lower scores before it makes masks, and keep all from `threshold` on."""

    @abstractmethod
    def expected_of_data(self) -> DataExpectations:
        """What the model and the mapper expect of the annotations."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model, on the config's device.

        Raises:
            ConfigError: a component refuses an argument that the command line has set.
        """

    def augmented(self, model: nn.Module, metadata: Metadata) -> nn.Module:
        """The model with test-time augmentation: 0.8, 1 and 1.25 times the test size, and mirrored.

        Args:
            model: in eval mode.
            metadata: of its classes.

        Raises:
            ConfigError: a model without RoI heads, or keypoints whose mirror images are not known.
        """
        return RCNNWithTTA(model, self._augmentations(), metadata)

    def _augmentations(self) -> DatasetMapperTTA | RelativeScales:
        return RelativeScales()

    @abstractmethod
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of `model`'s parameters."""

    @abstractmethod
    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """What `hooks.LRScheduler` steps: a torch scheduler, or fvcore's multiplier of the base rate."""

    @abstractmethod
    def build_train_loader(self) -> Iterable[list[dict]]:
        """Endless batches of mapped dataset dicts."""

    @abstractmethod
    def build_validation_loader(self) -> Iterable[list[dict]]:
        """The test sets' images with their annotations, augmented as at test time; one image each, once.

        Images without annotations are left out as they are in training.

        Raises:
            ConfigError: there is no test set, or the mapper has no augmentations to replace.
        """

    @abstractmethod
    def build_test_mapper(self) -> Mapper:
        """Maps a dataset dict, or only {"file_name": ...}, to the model's input at test time."""

    @abstractmethod
    def test_sets(self, *, final: bool) -> Iterator[TestSet]:
        """The evaluations that the config describes, each built when it is its turn.

        Args:
            final: whether training is over; test-time augmentation waits for that.
        """

    @property
    def evaluates_more_at_the_end(self) -> bool:
        """Whether `test_sets` has more evaluations with `final` than without."""
        return False

    def coco_results(self) -> CocoResults | None:
        """Where the last of the evaluations, without test-time augmentation, leaves its detections.

        None where no evaluator writes COCO's results file.
        """
        return None

    def check_evaluation(self) -> None:
        """Finds before training what would stop the evaluation after it.

        Raises:
            ConfigError: a test set that no evaluator is for.
        """
        return

    def build_hooks(self, model: nn.Module) -> list[HookBase]:
        """Hooks that the config requests, to come before the checkpointer."""
        return []

    def check_results(self, results: Results) -> None:
        """Compares results with those that the config expects, if any.

        Raises:
            ConfigError: it expects a task that was not evaluated.
            SystemExit: a result is outside its tolerance (status 1).
        """
        return

    @abstractmethod
    def save(self, path: str) -> None:
        """Writes `raw` as YAML, in the form that `load_config` reads."""

    def reloads(self, path: str) -> bool:
        """Whether the YAML file that `save` wrote at `path` holds all of the config."""
        return True


def refused(key: str, component: object, error: Exception) -> ConfigError:
    """The error of a component that cannot be built from what the config says below `key`."""
    text = first_line(error)
    if isinstance(error, KeyError | AssertionError) and (not text or text == type(error).__name__):
        text = f"{type(error).__name__} while it is built"
    of = f" ({str(component).rpartition('.')[2]})" if component else ""
    return ConfigError(f"{key}{of}: {text} [{TRACEBACK}=1 shows where]")
