"""Finding and loading of configs."""

from __future__ import annotations

import pytest
from helpers.tiny_runs import TINY, train_in_process
from torch import nn

from mrcnn_plugin.config import find_config, load_config
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


def test_a_shortcut_that_became_a_key_is_named(tmp_path):
    """Its image format, a reference to the training's mapper, would not be found in the saved config."""
    text = """
from mrcnn_plugin import model_zoo
_cfg = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
model, dataloader, optimizer = _cfg.model, _cfg.dataloader, _cfg.optimizer
lr_multiplier, train = _cfg.lr_multiplier, _cfg.train
{name} = dataloader.test.mapper
"""
    (tmp_path / "cut.py").write_text(text.format(name="mapper"))
    with pytest.raises(ConfigError, match=r"cut\.py: mapper: .*image_format.* underscore: _mapper$"):
        load_config(str(tmp_path / "cut.py"))
    (tmp_path / "cut.py").write_text(text.format(name="_mapper"))
    assert "mapper" not in load_config(str(tmp_path / "cut.py")).raw


def test_unknown_data_set(tmp_path):
    line = [
        "--config-file",
        str(TINY),
        f"train.output_dir={tmp_path}",
        "dataloader.train.dataset.names=shapes_trian",
    ]
    with pytest.raises(ValueError, match=r"shapes_trian: no such data set; did you mean shapes_train\?"):
        train_in_process(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimizer.learning_rate = 1", "unknown key 'optimizer.learning_rate': SGD has no such argument"),
        ("model.roi_heads.num_clases = 3", "did you mean 'model.roi_heads.num_classes'?"),
        ("train['max_itr'] = 3", "unknown key 'train.max_itr'; did you mean 'train.max_iter'?"),
        ("train['ddp']['buckets'] = 3", "unknown key 'train.ddp.buckets'"),
    ],
)
def test_a_typo_in_the_file_itself(tmp_path, line, message):
    (tmp_path / "typo.py").write_text(f"{TINY.read_text()}\n{line}\n")
    with pytest.raises(ConfigError) as error:
        load_config(str(tmp_path / "typo.py"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_components_of_a_former_release(tmp_path):
    """A run folder's config names the optimizer by the module that held it then."""
    config = load_config("Shapes/mask_rcnn_R_18_FPN.py")
    config.save(str(tmp_path / "config.yaml"))
    text = (tmp_path / "config.yaml").read_text()
    assert text.count("mrcnn_plugin.config.optimizer.build_optimizer") == 1
    (tmp_path / "config.yaml").write_text(
        text.replace("mrcnn_plugin.config.optimizer", "mrcnn_plugin.solver")
    )
    again = load_config(str(tmp_path / "config.yaml"))
    assert again.raw.optimizer._target_ == "mrcnn_plugin.config.optimizer.build_optimizer"
    weights = nn.Linear(2, 3)
    assert again.build_optimizer(weights).param_groups[0]["lr"] == config.raw.optimizer.lr
