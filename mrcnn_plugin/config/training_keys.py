"""The keys of a run's loop that Detectron2's configs lack: `train.X` of a LazyConfig, TRAIN.X in YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mrcnn_plugin.errors import ConfigError

#: What `train.trackers` may name.
TRACKERS = ("tensorboard", "wandb", "mlflow")
#: Ending of the names of tasks that the averaged weights were evaluated on.
EMA_SUFFIX = "_EMA"


@dataclass(frozen=True)
class BestCheckpoint:
    """Keeps the weights of the best evaluation as model_best.pth.

    Attributes:
        metric: such as "segm/AP", "segm_EMA/AP" or "validation/total_loss"; "" for none.
        mode: "max" or "min"; "" is "min" for a loss, else "max".
    """

    metric: str = ""
    mode: str = ""


@dataclass(frozen=True)
class EarlyStopping(BestCheckpoint):
    """Ends the run where a metric has not improved for `patience` evaluations in succession."""

    patience: int = 5


@dataclass(frozen=True)
class Ema:
    """Averages the weights exponentially; a decay of 0 is no averaging."""

    decay: float = 0.0


@dataclass(frozen=True)
class TrainingKeys:
    """What a config asks of the training loop.

    Attributes:
        best_checkpoint, early_stopping, ema: see their classes.
        validation_loss: whether each evaluation also computes the losses on the test sets.
        accumulate: batches whose gradients make one step.
        trackers: some of `TRACKERS`.
    """

    best_checkpoint: BestCheckpoint = BestCheckpoint()
    early_stopping: EarlyStopping = EarlyStopping()
    ema: Ema = Ema()
    validation_loss: bool = False
    accumulate: int = 1
    trackers: tuple[str, ...] = ("tensorboard",)

    @property
    def metrics(self) -> dict[str, str]:
        """The metrics that something waits for, by the keys that name them."""
        watched = {"best_checkpoint": self.best_checkpoint, "early_stopping": self.early_stopping}
        return {f"train.{name}.metric": group.metric for name, group in watched.items() if group.metric}


#: Key -> the keys below it, for those that are groups.
GROUPS = {
    name: tuple(field.name for field in fields(kind))
    for name, kind in (("best_checkpoint", BestCheckpoint), ("early_stopping", EarlyStopping), ("ema", Ema))
}
KEYS = tuple(field.name for field in fields(TrainingKeys))


def read_training_keys(section: Mapping[str, Any], spell: Callable[[str], str]) -> TrainingKeys:
    """The keys of a config's section, checked.

    Args:
        section: key -> value; what is absent or None has its default. Other keys are left alone.
        spell: the user's spelling of a key such as "train.ema.decay".

    Raises:
        ConfigError: a value that makes no sense.
    """
    best = BestCheckpoint(**_watched(section, "best_checkpoint", spell))
    stopping = EarlyStopping(**_watched(section, "early_stopping", spell))
    if not _is_count(stopping.patience):
        key = spell("train.early_stopping.patience")
        raise ConfigError(f"{key} must be a number of evaluations, at least 1, got {stopping.patience!r}")
    ema = Ema(**_given(section.get("ema"), GROUPS["ema"]))
    if not isinstance(ema.decay, int | float) or not 0 <= ema.decay < 1:
        raise ConfigError(f"{spell('train.ema.decay')} must be in [0, 1), such as 0.999, got {ema.decay!r}")
    keys = TrainingKeys(best, stopping, ema, **_given(section, ("validation_loss", "accumulate")))
    if not _is_count(keys.accumulate):
        key = spell("train.accumulate")
        raise ConfigError(f"{key} must be a number of batches, at least 1, got {keys.accumulate!r}")
    if not isinstance(keys.validation_loss, bool):
        key = spell("train.validation_loss")
        raise ConfigError(f"{key} must be true or false, got {keys.validation_loss!r}")
    trackers = _trackers(section.get("trackers"), spell)
    return TrainingKeys(best, stopping, ema, keys.validation_loss, keys.accumulate, trackers)


def _given(section: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    return {name: section[name] for name in names if section and section.get(name) is not None}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _watched(section: Mapping[str, Any], name: str, spell: Callable[[str], str]) -> dict[str, Any]:
    """The given keys of a group that watches a metric; {} where it names none."""
    given = _given(section.get(name), GROUPS[name])
    if not given.get("metric"):
        if given.get("mode"):
            key = spell(f"train.{name}")
            raise ConfigError(f"{key} needs a metric: {spell(f'train.{name}.metric')}=segm/AP, for example")
        return {}
    metric = str(given["metric"])
    mode = given.get("mode") or ("min" if metric.endswith("loss") else "max")
    if mode not in ("max", "min"):
        raise ConfigError(f"{spell(f'train.{name}.mode')} must be 'max' or 'min', got {mode!r}")
    return {**given, "metric": metric, "mode": mode}


def _trackers(names: Any, spell: Callable[[str], str]) -> tuple[str, ...]:
    if names is None:
        return TrainingKeys.trackers
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        known = ", ".join(map(repr, TRACKERS))
        raise ConfigError(f"{spell('train.trackers')} must be some of {known}, got {unknown[0]!r}")
    return tuple(names)
