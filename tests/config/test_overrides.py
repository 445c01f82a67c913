"""Overrides: what is accepted, what is refused, and which key a refusal names."""

from __future__ import annotations

import pytest
from detectron2.config import get_cfg
from helpers.tiny_runs import TINY
from omegaconf import OmegaConf

from mrcnn_plugin.config.loading import load_config
from mrcnn_plugin.config.overrides import apply_cfgnode_overrides
from mrcnn_plugin.errors import ConfigError


def load(*overrides: str):
    config = load_config(str(TINY), overrides)
    return config.raw, config.overridden


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.max_itre=3", "train.max_iter"),
        ("max_iter=3", "train.max_iter"),
        ("trian.max_iter=3", "train.max_iter"),
        # Absent from the config, but read by default_setup, or a parameter of a target or of its base.
        ("train.sed=3", "train.seed"),
        ("model.roi_heads.num_clases=3", "model.roi_heads.num_classes"),
        ("model.roi_heads.mask_head.conv_dim=[8]", "model.roi_heads.mask_head.conv_dims"),
        ("optimizer.nestrov=true", "optimizer.nesterov"),
        ("dataloader.train.mapper.augmentations.0.probe=1", "dataloader.train.mapper.augmentations.0.prob"),
        ("train.ddp.find_unused_params=true", "train.ddp.find_unused_parameters"),
        ("train.checkpointer.perod=3", "train.checkpointer.period"),
    ],
)
def test_unknown_key_names_the_nearest(override, hint):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert str(error.value) == f"unknown key {override.split('=')[0]!r}; did you mean {hint!r}?"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.max_iter=30", "train.max_iter", 30),
        ("train.max_iter=1e1", "train.max_iter", 10),
        ("optimizer.lr=1", "optimizer.lr", 1),
        ("optimizer.nesterov=true", "optimizer.nesterov", True),
        ("train.seed=3", "train.seed", 3),
        ("train.output_dir=5", "train.output_dir", "5"),
        ("train.init_checkpoint=https://host/a.pkl", "train.init_checkpoint", "https://host/a.pkl"),
        ("dataloader.train.dataset.names=[a,b]", "dataloader.train.dataset.names", ["a", "b"]),
        ("dataloader.train.dataset.min_keypoints=1", "dataloader.train.dataset.min_keypoints", 1),
        (
            "dataloader.train.mapper.augmentations.0.prob=0.25",
            "dataloader.train.mapper.augmentations.0.prob",
            0.25,
        ),
        # A parameter of the base class, reached through the target's **kwargs.
        ("model.roi_heads.proposal_append_gt=false", "model.roi_heads.proposal_append_gt", False),
        ("model.roi_heads.mask_head=null", "model.roi_heads.mask_head", None),
        ("+train.anything=1", "train.anything", 1),
    ],
)
def test_valid_override(override, key, value):
    cfg, keys = load(override)
    assert OmegaConf.select(cfg, key) == value
    assert type(OmegaConf.select(cfg, key)) is type(value) or isinstance(value, list)
    assert keys == {key}


def test_followers_follow():
    cfg, _ = load("model.roi_heads.num_classes=9")
    assert cfg.model.roi_heads.mask_head.num_classes == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iter=abc", "train.max_iter must be a number, got 'abc' (it is 6 in the config)"),
        ("train.max_iter=1.5", "train.max_iter must be a whole number, got 1.5 (it is 6 in the config)"),
        ("train.amp.enabled=1", "train.amp.enabled must be true or false, got 1 (it is False in the config)"),
        ("train.output_dir=true", "train.output_dir must be a string, got True"),
        ("train=3", "train is a group of keys, got 3; set one: train.FIELD=VALUE"),
        ("model.roi_heads.mask_head=3", "model.roi_heads.mask_head is a component with fields of its own"),
        ("train.max_iter.x=3", "unknown key 'train.max_iter.x': 'train.max_iter' is 6"),
        ("train.max_iter", "override 'train.max_iter' must have the form key=value"),
        ("train.max_iter=[1", "override 'train.max_iter=[1' cannot be read"),
        ("~train.max_iter", "override '~train.max_iter' must have the form key=value"),
        ("~train.max_iter=", "deletion is not supported"),
    ],
)
def test_bad_override(override, message):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_cfgnode_pairs_and_equals():
    cfg = get_cfg()
    overrides = ["SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER=7", "INPUT.MIN_SIZE_TRAIN=(3,)"]
    keys = apply_cfgnode_overrides(cfg, overrides)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.INPUT.MIN_SIZE_TRAIN) == (0.5, 7, (3,))
    assert keys == {"SOLVER.BASE_LR", "SOLVER.MAX_ITER", "INPUT.MIN_SIZE_TRAIN"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITR", "7"], "unknown key 'SOLVER.MAX_ITR'; did you mean 'SOLVER.MAX_ITER'?"),
        (["MAX_ITER=7"], "unknown key 'MAX_ITER'; did you mean 'SOLVER.MAX_ITER'?"),
        (["SOLVER.MAX_ITER"], "override 'SOLVER.MAX_ITER' has no value"),
        (["SOLVER.MAX_ITER=many"], "SOLVER.MAX_ITER: Type mismatch"),
    ],
)
def test_bad_cfgnode_override(overrides, message):
    with pytest.raises(ConfigError) as error:
        apply_cfgnode_overrides(get_cfg(), overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
