"""A config that somebody sent is read as data: what would run their code is refused by name, and not run."""

from __future__ import annotations

import sys

import cloudpickle
import pytest

from mrcnn_plugin.config import load_config
from mrcnn_plugin.config.untrusted import permitted
from mrcnn_plugin.errors import ConfigError

SECTIONS = "{name}: {{}}\n"
REST = "".join(SECTIONS.format(name=name) for name in ("dataloader", "train", "optimizer", "lr_multiplier"))


def load(tmp_path, text: str):
    (tmp_path / "config.yaml").write_text(text)
    return load_config(str(tmp_path / "config.yaml"), trusted=False)


CODE = {
    "a function": "model: {_target_: os.system, command: touch MARK}",
    "a tag that calls": "model: !!python/object/apply:os.system [touch MARK]",
    "a tag that makes an object": "model: !!python/object/new:subprocess.Popen [[touch, MARK]]",
    "a tag that names": "model: {a: !!python/name:os.system }",
    "a tag that imports": "model: {a: !!python/module:antigravity }",
    "a loader of code": "model: {_target_: detectron2.config.LazyConfig.load, filename: x.py}",
    "a loader of pickles": "model: {_target_: torch.load, f: x.pth}",
    "a module behind an admitted one": "model: {_target_: torch.nn.modules.module.warnings.warn, message: x}",
    "an import of an admitted one": "model: {_target_: detectron2.modeling.backbone.resnet.np.load}",
    "a method": "model: {_target_: torch.nn.modules.module.Module.load_state_dict}",
    "a private name": "model: {_target_: torch.nn.modules.module.__builtins__.eval}",
    "a target of a target": "model: {_target_: {_target_: os.system}, command: touch MARK}",
    "a reference to a target": "model: {_target_: '${train.x}'}\ntrain: {x: os.system}",
    "a resolver": "model: {a: '${oc.create:{_target_:os.system,command:ls}}'}",
    "a resolver in a reference": "model: {a: '${model.${oc.env:HOME}}'}",
    "a merge key": "model: {<<: {_target_: os.system}, command: touch MARK}",
    "an optimizer's name": (
        "optimizer: {_target_: mrcnn_plugin.config.optimizer.build_optimizer, optimizer: antigravity.x}"
    ),
    "timm's own loading": (
        "model: {_target_: mrcnn_plugin.modeling.TimmBackbone, name: r, model_args: {checkpoint_path: /x}}"
    ),
    "an evaluator, which writes files": "model: {_target_: detectron2.evaluation.COCOEvaluator}",
    "in a list": "model: [1, [{_target_: os.system}]]",
    "in another section": "dataloader: {train: {mapper: {_target_: antigravity.fly}}}",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_code_is_refused_and_not_run(tmp_path, text):
    mark = tmp_path / "mark"
    text = text.replace("MARK", str(mark))
    rest = "".join(line for line in REST.splitlines(True) if line.partition(":")[0] not in text)
    with pytest.raises(ConfigError, match=r"not known to be harmless: .* add --trust-run") as error:
        load(tmp_path, f"{text}\n{rest}" + ("" if "model" in text else "model: {}\n"))
    assert "\n" not in str(error.value)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "Shapes/mask_rcnn_R_18_FPN.py",
        "projects/point_rend/configs/Shapes/point_rend_R_18_FPN.py",
    ],
)
def test_what_a_run_writes_of_our_configs_is_admitted(tmp_path, name):
    config = load_config(name)
    config.save(str(tmp_path / "config.yaml"))
    again = load_config(str(tmp_path / "config.yaml"), trusted=False)
    assert sum(p.numel() for p in again.build_model().parameters()) == sum(
        p.numel() for p in config.build_model().parameters()
    )


PIECES = """
from detectron2.config import LazyCall as L
from mrcnn_plugin import model_zoo
from mrcnn_plugin.configs.common.data.augmentations import albumentations, copy_paste, flip, scale_jitter
from mrcnn_plugin.data import repeat_factor_sampler
_cfg = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py")
model, dataloader, optimizer = _cfg.model, _cfg.dataloader, _cfg.optimizer
lr_multiplier, train = _cfg.lr_multiplier, _cfg.train
_mapper = dataloader.train.mapper
_mapper.augmentations = [*scale_jitter(320), flip]
_mapper.recompute_boxes = True
copy_paste(_mapper)
dataloader.train.sampler = L(repeat_factor_sampler)(dataset="${..dataset}", repeat_thresh=0.1)
"""


@pytest.mark.parametrize("more", [False, True], ids=["", "albumentations"])
def test_a_run_with_every_piece_for_the_data_can_be_predicted_with(tmp_path, more):
    text = PIECES
    if more:
        pytest.importorskip("albumentations")
        text += "import albumentations as A\n_mapper.augmentations.append(albumentations(L(A.Blur)(p=0.5)))\n"
    (tmp_path / "pieces.py").write_text(text)
    load_config(str(tmp_path / "pieces.py")).save(str(tmp_path / "config.yaml"))
    again = load_config(str(tmp_path / "config.yaml"), trusted=False).raw.dataloader.train
    assert again.mapper._target_ == "mrcnn_plugin.data.CopyPasteMapper"
    assert again.sampler.repeat_thresh == 0.1
    assert more == any("Albumentations" in step._target_ for step in again.mapper.augmentations)
    for name in (
        "albumentations.load",
        "albumentations.core.serialization.from_dict",
        "albumentations.os.system",
    ):
        assert permitted(name) is None


def test_nothing_is_imported_to_find_out_that_a_name_is_not_admitted(tmp_path, monkeypatch):
    (tmp_path / "evil_package.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil_package.f", "mrcnn_plugin.projects.evil.f", "torch.nn.modules.evil.f", "this.s"):
        assert permitted(name) is None
    assert all(permitted(name) is None for name in ("", ".", "a..b", "evil_package", "torch.nn"))
    assert "this" not in sys.modules


def test_what_is_admitted():
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import ResNet

    assert permitted("detectron2.layers.ShapeSpec") is ShapeSpec
    assert permitted("detectron2.modeling.ResNet.make_stage") == ResNet.make_stage
    assert permitted("builtins.dict") is dict
    assert permitted("mrcnn_plugin.solver.build_optimizer").__name__ == "build_optimizer"
    assert permitted("detectron2.modeling.build_model") is None
    assert permitted("builtins.eval") is None


def test_a_pickled_config_is_not_opened_unless_trusted(tmp_path):
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return mark.write_text, ("ran",)

    (tmp_path / "config.yaml").write_text("model: {}\n" + REST)
    (tmp_path / "config.yaml.pkl").write_bytes(cloudpickle.dumps(Evil()))
    with pytest.raises(
        ConfigError, match=r"config\.yaml\.pkl is a pickle, which can run any code: .*--trust-run"
    ):
        load_config(str(tmp_path / "config.yaml"), trusted=False)
    assert not mark.exists()
    with pytest.raises(ConfigError, match="not a config"):
        load_config(str(tmp_path / "config.yaml"))
    assert mark.read_text() == "ran", "the pickle runs nothing, so this test shows nothing"


def test_a_cfgnode_runs_no_tags_even_if_trusted(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "c.yaml").write_text(f"MODEL: {{DEVICE: !!python/object/apply:os.system [touch {mark}]}}")
    with pytest.raises(ConfigError, match=r"c\.yaml: could not determine a constructor"):
        load_config(str(tmp_path / "c.yaml"))
    assert not mark.exists()
