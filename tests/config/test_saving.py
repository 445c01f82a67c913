"""What a run folder keeps of its config."""

from __future__ import annotations

import pytest
from detectron2.config import get_cfg, instantiate
from helpers.tiny_runs import TINY

from mrcnn_plugin.config import load_config
from mrcnn_plugin.config.saving import changes, save_config

_SECTIONS = "dataloader = dict()\noptimizer = dict()\nlr_multiplier = dict()\ntrain = dict()\n"


@pytest.fixture
def tiny(tmp_path):
    """The tiny config, with `tmp_path` as its run folder."""
    return load_config(str(TINY), [f"train.output_dir={tmp_path}"])


def test_function_of_a_config_file_survives_saving(tmp_path):
    (tmp_path / "local.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "def double(x):\n    return 2 * x\n"
        "model = L(double)(x=21)\n" + _SECTIONS
    )
    config = load_config(str(tmp_path / "local.py"), [f"train.output_dir={tmp_path}"])
    config.save(str(tmp_path / "config.yaml"))
    save_config(config)
    again = load_config(str(tmp_path / "config.yaml"), ["model.x=4"])
    assert instantiate(again.raw.model) == 8


def test_config_of_importable_parts_is_kept_as_yaml_alone(tiny, tmp_path):
    (tmp_path / "config.yaml.pkl").touch()
    tiny.save(str(tmp_path / "config.yaml"))
    save_config(tiny)
    assert not (tmp_path / "config.yaml.pkl").exists()
    again = load_config(str(tmp_path / "config.yaml"))
    first, second = (instantiate(config.raw.model).state_dict() for config in (tiny, again))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}


def test_changes_since_a_run_began(tiny, tmp_path):
    assert changes(tiny) == []
    tiny.save(str(tmp_path / "config.yaml"))
    assert changes(tiny) == []
    tiny.raw.optimizer.lr = 0.02
    tiny.raw.model.pixel_mean = [103.53, 116.28]
    tiny.raw.train.seed = None
    assert changes(tiny) == [
        "model.pixel_mean.2: 123.675 -> absent",
        "optimizer.lr: 0.01 -> 0.02",
        "train.seed: 7 -> null",
    ]


def test_a_component_that_moved_is_no_change(tmp_path):
    config = load_config("Shapes/mask_rcnn_R_18_FPN.py", [f"train.output_dir={tmp_path}"])
    path = tmp_path / "config.yaml"
    config.save(str(path))
    path.write_text(path.read_text().replace("mrcnn_plugin.config.optimizer", "mrcnn_plugin.solver"))
    assert changes(config) == []


def test_changes_of_a_cfgnode(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    config = load_config(str(tmp_path / "config.yaml"))
    config.save(str(tmp_path / "config.yaml"))
    assert changes(config) == []
    config.raw.SOLVER.STEPS = (1, 2)
    assert changes(config) == ["SOLVER.STEPS.0: 30000 -> 1", "SOLVER.STEPS.1: absent -> 2"]
