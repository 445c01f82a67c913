"""Loading of configs, and what a run folder keeps of them."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from helpers.tiny_runs import TINY, train_in_process
from omegaconf import OmegaConf

from mrcnn_plugin.config.loading import changes, choose_device, find_config, load_config, save_config
from mrcnn_plugin.errors import ConfigError

_SECTIONS = "dataloader = dict()\noptimizer = dict()\nlr_multiplier = dict()\ntrain = dict()\n"


def test_names_of_the_zoo():
    path = find_config("Shapes/mask_rcnn_R_18_FPN.py")
    assert path.endswith("configs/Shapes/mask_rcnn_R_18_FPN.py")
    assert find_config(str(TINY)) == str(TINY)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "--config-file is missing"),
        ("Shapes/mask_rcn_R_18_FPN.py", "did you mean Shapes/mask_rcnn_R_18_FPN.py"),
    ],
)
def test_missing_file(name, message):
    with pytest.raises(ConfigError) as error:
        find_config(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict()\n" + _SECTIONS.replace("train", "trian"), "it does not define train"),
        ("model = (\n", "could not be loaded: .* syntax error"),
        ("from .nowhere import model\n", "could not be loaded: .*nowhere"),
    ],
)
def test_file_that_is_no_lazyconfig(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.py .*{message}") as error:
        load_config(str(tmp_path / "bad.py"))
    assert "\n" not in str(error.value)


def test_function_of_a_config_file_survives_saving(tmp_path):
    (tmp_path / "local.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "def double(x):\n    return 2 * x\n"
        "model = L(double)(x=21)\n" + _SECTIONS
    )
    cfg, _ = load_config(str(tmp_path / "local.py"))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    save_config(cfg, str(tmp_path))
    again, _ = load_config(str(tmp_path / "config.yaml"), ["model.x=4"])
    assert instantiate(again.model) == 8


def test_config_of_importable_parts_is_kept_as_yaml_alone(tmp_path):
    cfg, _ = load_config(str(TINY))
    (tmp_path / "config.yaml.pkl").touch()
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    save_config(cfg, str(tmp_path))
    assert not (tmp_path / "config.yaml.pkl").exists()
    again, _ = load_config(str(tmp_path / "config.yaml"))
    first, second = (instantiate(c.model).state_dict() for c in (cfg, again))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}


def test_changes_since_a_run_began(tmp_path):
    cfg, _ = load_config(str(TINY))
    assert changes(cfg, str(tmp_path)) == []
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert changes(cfg, str(tmp_path)) == []
    cfg.optimizer.lr = 0.02
    cfg.model.pixel_mean = [103.53, 116.28]
    cfg.train.fresh = True
    assert changes(cfg, str(tmp_path)) == [
        "model.pixel_mean.2: 123.675 -> absent",
        "optimizer.lr: 0.01 -> 0.02",
        "train.fresh: absent -> true",
    ]


def test_changes_of_a_cfgnode(tmp_path):
    cfg = get_cfg()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert changes(cfg, str(tmp_path)) == []
    cfg.SOLVER.STEPS = (1, 2)
    assert changes(cfg, str(tmp_path)) == ["SOLVER.STEPS.0: 30000 -> 1", "SOLVER.STEPS.1: absent -> 2"]


@pytest.mark.parametrize("available", [False, True])
def test_device(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    expected = {"cpu": "cpu", "meta": "meta"}
    for given in ("cuda", "cuda:1", "auto", None, "cpu", "meta"):
        cfg = OmegaConf.create({"train": {} if given is None else {"device": given}})
        note = choose_device(cfg)
        kept = expected.get(given) or (given if available and str(given).startswith("cuda") else None)
        assert cfg.train.device == (kept or ("cuda" if available else "cpu"))
        assert (note is None) == (kept is not None)
    cfg = get_cfg()
    choose_device(cfg)
    assert ("cuda" if available else "cpu") == cfg.MODEL.DEVICE


def test_unknown_data_set(tmp_path):
    line = [
        "--config-file",
        str(TINY),
        f"train.output_dir={tmp_path}",
        "dataloader.train.dataset.names=shapes_trian",
    ]
    with pytest.raises(ValueError, match=r"shapes_trian: no such data set; did you mean shapes_train\?"):
        train_in_process(line)
