"""The keys of the training loop, from a LazyConfig and from YAML."""

from __future__ import annotations

import pytest
import yaml
from helpers.tiny_runs import TINY

from mrcnn_plugin.config import fit_to_dataset, load_config
from mrcnn_plugin.config.training_keys import BestCheckpoint, EarlyStopping, Ema, TrainingKeys
from mrcnn_plugin.errors import ConfigError

LAZY = [
    "train.best_checkpoint.metric=segm/AP",
    "train.early_stopping.metric=validation/total_loss",
    "train.early_stopping.patience=3",
    "train.ema.decay=0.9",
    "train.validation_loss=True",
    "train.accumulate=4",
    "train.trackers=[wandb,mlflow]",
]
EXPECTED = TrainingKeys(
    BestCheckpoint("segm/AP", "max"),
    EarlyStopping("validation/total_loss", "min", 3),
    Ema(0.9),
    True,
    4,
    ("wandb", "mlflow"),
)


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"MODEL": {"META_ARCHITECTURE": "MaskRCNN"}}))
    return str(path)


def as_yaml(override):
    key, _, value = override.partition("=")
    return f"{key.upper()}={value}"


def test_both_kinds_of_config_read_the_same(yaml_file):
    assert load_config(str(TINY), LAZY).training == EXPECTED
    yaml_overrides = [*map(as_yaml, LAZY[:-1]), "TRAIN.TRACKERS=['wandb','mlflow']"]
    assert load_config(yaml_file, yaml_overrides).training == EXPECTED


def test_without_the_keys_nothing_is_asked_for(yaml_file):
    assert load_config(str(TINY)).training == load_config(yaml_file).training == TrainingKeys()
    assert load_config(str(TINY), ["train.ema=null", "train.trackers=null"]).training == TrainingKeys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.early_stopping.metric=a train.early_stopping.patience=0",
            "train.early_stopping.patience must be a number of evaluations",
        ),
        ("train.best_checkpoint.mode=max", "train.best_checkpoint needs a metric"),
        ("train.ema.decay=1.0", "train.ema.decay must be in [0, 1), such as 0.999, got 1.0"),
        ("train.accumulate=0", "train.accumulate must be a number of batches, at least 1, got 0"),
    ],
)
def test_bad_values_are_refused_in_the_users_spelling(yaml_file, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(str(TINY), override.split())
    assert message in str(error.value)
    with pytest.raises(ConfigError) as error:
        load_config(yaml_file, [*map(as_yaml, override.split())])
    key = message.split()[0]
    assert message.replace(key, key.upper()) in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.trackers=[tensorbord]", "train.trackers must be some of 'tensorboard', 'wandb', 'mlflow'"),
        ("train.validation_loss=1", "train.validation_loss must be true or false, got 1"),
        ("train.emma.decay=0.9", "did you mean 'train.ema.decay'?"),
        ("train.early_stopping.patienc=2", "did you mean 'train.early_stopping.patience'?"),
    ],
)
def test_other_refusals_of_a_lazy_config(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(str(TINY), [override])
    assert message in str(error.value)


def test_mode_is_chosen_by_the_metric_and_can_be_given():
    best = "train.best_checkpoint"
    assert load_config(str(TINY), [f"{best}.metric=a_loss"]).training.best_checkpoint.mode == "min"
    given = [f"{best}.metric=a_loss", f"{best}.mode=max"]
    assert load_config(str(TINY), given).training.best_checkpoint.mode == "max"
    with pytest.raises(ConfigError, match="mode must be 'max' or 'min', got 'most'"):
        load_config(str(TINY), [f"{best}.metric=a", f"{best}.mode=most"])


def test_the_validation_loader_has_annotations_and_no_augmentation(shapes):
    overrides = [
        f"dataloader.{s}.dataset.names={shapes[n]}" for s, n in (("train", "train"), ("test", "val"))
    ]
    config = load_config(str(TINY), overrides)
    fit_to_dataset(config)
    first, second = ([s for batch in config.build_validation_loader() for s in batch] for _ in range(2))
    assert len(first) == 6
    assert all(sample["instances"].has("gt_masks") for sample in first)
    assert all(a["image"].equal(b["image"]) for a, b in zip(first, second))
    assert all("/val/" in sample["file_name"] for sample in first)
