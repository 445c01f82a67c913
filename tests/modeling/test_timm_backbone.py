"""timm's models as backbones: maps, names, sizes, norms, freezing, builders, errors."""

import math
import sys

import pytest
import timm
import torch
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage
from helpers.training import synthetic_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mrcnn_plugin import model_zoo
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import TimmBackbone, add_config, timm_normalization

ALL = ["res2", "res3", "res4", "res5"]
# Convolutions with BatchNorm apart and inside the activation, LayerNorm, no norm, maps that come as
# (N, H, W, C) with and without saying so, and a hook-free and a wrapped extractor.
SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}
MODELS = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_nfnet": {},
    "test_mambaout": {},
    "swin_tiny_patch4_window7_224": SWIN,
}


def build(name, **arguments):
    torch.manual_seed(0)
    return TimmBackbone(name, model_args=MODELS.get(name), **arguments)


@pytest.fixture(scope="module")
def backbones():
    return {name: build(name).eval() for name in MODELS}


def with_random_statistics(module):
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            with torch.no_grad():
                norm.weight.normal_()
                norm.bias.normal_()
    return module


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_of_timm(name, backbones):
    backbone = backbones[name]
    extra = {"strict_img_size": False, **SWIN} if name.startswith("swin") else {}
    oracle = timm.create_model(name, features_only=True, **extra).eval()
    oracle.load_state_dict(
        {k.removeprefix("net."): v for k, v in backbone.state_dict().items()}, strict=False
    )
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, expected = backbone(images), oracle(images)
    expected = dict(zip([f"res{int(math.log2(r))}" for r in oracle.feature_info.reduction()], expected))
    assert list(maps) == ALL == list(backbone.output_shape())
    for feature, one in maps.items():
        other = expected[feature]
        if other.shape[2:] != one.shape[2:]:
            other = other.permute(0, 3, 1, 2)
        assert torch.equal(one, other), feature
        shape = backbone.output_shape()[feature]
        stride = 2 ** int(feature[-1])
        assert shape.stride == stride
        assert one.shape == (2, shape.channels, 64 // stride, 96 // stride)


@settings(max_examples=12)
@given(name=st.sampled_from(sorted(MODELS)), height=st.integers(1, 100), width=st.integers(1, 100))
def test_any_size_is_padded_with_zeros_and_cut(backbones, name, height, width):
    backbone = backbones[name]
    images = torch.randn(1, 3, height, width)
    padded = torch.zeros(1, 3, math.ceil(height / 32) * 32, math.ceil(width / 32) * 32)
    padded[..., :height, :width] = images
    with torch.no_grad():
        maps, whole = backbone(images), backbone(padded)
    assert maps.keys() == whole.keys() == backbone.output_shape().keys()
    for feature, one in maps.items():
        stride = backbone.output_shape()[feature].stride
        sides = math.ceil(height / stride), math.ceil(width / stride)
        assert one.shape[-2:] == sides
        assert torch.equal(one, whole[feature][..., : sides[0], : sides[1]])


def test_only_what_is_needed_is_built():
    backbone = build("test_resnet", out_features=["res4", "res3"])
    assert list(backbone(torch.randn(1, 3, 40, 50))) == ["res3", "res4"]
    assert not any(name.startswith("net.layer4") for name in backbone.state_dict())
    # C4's stride of 16 is all that an image is padded to.
    assert build("test_resnet", out_features=["res4"])(torch.randn(1, 3, 17, 33))["res4"].shape[2:] == (2, 3)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_dilated_maps_keep_their_names(name):
    backbone = build(name, output_stride=16, out_features=["res4", "res5"]).eval()
    shapes = backbone.output_shape()
    assert [shape.stride for shape in shapes.values()] == [16, 16]
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert {one.shape[2:] for one in maps.values()} == {(4, 6)}
    assert maps["res5"].shape[1] == shapes["res5"].channels == build(name).output_shape()["res5"].channels


def test_a_model_of_one_scale_has_one_map_of_any_size():
    backbone = build("test_vit", out_features=["res4"])
    assert backbone(torch.randn(1, 3, 50, 70))["res4"].shape == (1, 64, 4, 5)
    assert backbone.output_shape() == {"res4": ShapeSpec(channels=64, stride=16)}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0"])
def test_frozen_norms_equal_evaluation_and_do_not_change(name):
    trained = with_random_statistics(build(name)).eval()
    frozen = build(name, norm="FrozenBN")
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    frozen.load_state_dict(state, strict=True)
    frozen.train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    # The activations inside of timm's norms, and tf_efficientnet's epsilon of 0.001, are kept.
    images = torch.randn(2, 3, 64, 64)
    maps = frozen(images)
    for feature, expected in trained(images).items():
        torch.testing.assert_close(maps[feature], expected, rtol=1e-4, atol=1e-4)
    sum(one.square().mean() for one in maps.values()).backward()
    for key, value in frozen.state_dict().items():
        assert torch.equal(value, state[key]), key
    norms = [n for n, m in trained.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not {f"{n}.weight" for n in norms} & {n for n, _ in frozen.named_parameters()}


def test_the_oracle_of_frozen_norms_sees_a_wrong_epsilon():
    model = with_random_statistics(build("tf_efficientnet_lite0", norm="FrozenBN"))
    eps = {m.eps for m in model.modules() if type(m).__name__.startswith("FrozenBatchNorm")}
    assert eps == {1e-3}


def test_synchronised_norms_keep_weights_and_activations():
    plain, shared = build("test_efficientnet").eval(), build("test_efficientnet", norm="SyncBN").eval()
    kinds = {type(m).__name__ for m in shared.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds <= {"SyncBatchNorm", "SyncBatchNormAct"}
    assert "SyncBatchNormAct" in kinds
    images = torch.randn(1, 3, 32, 32)
    shared.load_state_dict(plain.state_dict())
    assert torch.equal(plain(images)["res5"], shared(images)["res5"])


# What each level is computed from, by timm's names.
FROZEN = {
    ("test_resnet", 1): ("conv1.", "bn1."),
    ("test_resnet", 2): ("conv1.", "bn1.", "layer1."),
    ("test_resnet", 4): ("conv1.", "bn1.", "layer1.", "layer2.", "layer3."),
    ("test_efficientnet", 2): ("conv_stem.", "bn1.", "blocks.0.", "blocks.1."),
    ("test_convnext", 3): ("stem_0.", "stem_1.", "stages_0.", "stages_1."),
    ("swin_tiny_patch4_window7_224", 2): ("patch_embed.", "layers_0."),
}


@pytest.mark.parametrize(("name", "freeze_at"), FROZEN)
def test_frozen_levels(name, freeze_at):
    backbone = build(name, freeze_at=freeze_at, drop_path_rate=0.1).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    sum(one.square().mean() for one in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    prefixes = tuple(f"net.{prefix}" for prefix in FROZEN[name, freeze_at])
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == key.startswith(prefixes), key
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    # Statistics of frozen norms stay, the others move.
    assert not [key for key in changed if key.startswith(prefixes)]
    assert bool(changed) == any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    assert backbone.eval().training is False


@torch.no_grad()
def test_frozen_levels_are_found_where_gradients_are_off():
    backbone = build("test_resnet", freeze_at=2)
    assert any(not parameter.requires_grad for parameter in backbone.parameters())


def test_drop_path_is_of_training_only():
    backbone = build("test_convnext", drop_path_rate=0.9)
    images = torch.randn(8, 3, 32, 32)
    backbone.eval()
    assert torch.equal(backbone(images)["res5"], backbone(images)["res5"])
    backbone.train()
    assert not torch.equal(backbone(images)["res5"], backbone(images)["res5"])
    plain = build("test_convnext").train()
    assert torch.equal(plain(images)["res5"], plain(images)["res5"])


def test_windows_that_need_a_larger_multiple():
    with pytest.raises(ConfigError, match=r"'test_maxvit' .* any size .*; with pad_multiple=160 it does"):
        build("test_maxvit")
    maps = build("test_maxvit", pad_multiple=160)(torch.randn(1, 3, 100, 170))
    assert maps["res5"].shape[2:] == (4, 6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("test_resnett", {}, r"timm has no model 'test_resnett'; the nearest are 'test_resnet'"),
        ("test_vit", {}, r"some of \['res4'\], got .*; a model of one scale carries no FPN"),
        ("test_resnet", {"out_features": ["res6"]}, r"some of \['res1', .*\], got \['res6'\]$"),
        ("test_resnet", {"out_features": []}, "got \\[\\]"),
        ("test_resnet", {"freeze_at": 6}, r"freeze_at .* must be 0 or one of \[1, 2, 3, 4, 5\], got 6"),
        ("test_convnext", {"freeze_at": 1}, r"one of \[2, 3, 4, 5\], got 1"),
        ("test_convnext", {"norm": "FrozenBN"}, "has no BatchNorm; leave norm ''"),
        ("test_resnet", {"norm": "GN"}, "must be '', 'FrozenBN' or 'SyncBN', got 'GN'"),
        (
            "test_convnext",
            {"model_args": {"depth": 3}},
            r"cannot build 'test_convnext' .* depth=3: .*'depth'",
        ),
        ("test_coatnet", {}, "does not take images of any size .*; it cannot serve as a backbone"),
    ],
)
def test_errors_are_one_line(name, arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TimmBackbone(name, **arguments)
    assert "\n" not in str(caught.value)


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"a timm backbone needs timm.*: pip install 'timm>=1\.0\.31'$"):
        TimmBackbone("test_resnet")


def test_normalization_is_timms_on_pixels():
    assert timm_normalization("tf_efficientnet_lite0") == {
        "pixel_mean": [127.5] * 3,
        "pixel_std": [127.5] * 3,
        "input_format": "RGB",
    }
    imagenet = timm_normalization("resnet50d.ra2_in1k")
    assert imagenet["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert imagenet["pixel_std"] == pytest.approx([58.395, 57.12, 57.375])
    with pytest.raises(ConfigError, match=r"no weights 'resnet50d\.moon': .*moon"):
        timm_normalization("resnet50d.moon")


def small_yaml():
    cfg = get_cfg()
    add_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.NAME = "test_resnet"
    return cfg


def test_yaml_fpn(caplog, tmp_path):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    with pytest.raises(ConfigError, match=r"no MODEL\.TIMM: call mrcnn_plugin\.add_config"):
        build_backbone(cfg)
    cfg = small_yaml()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.FPN.IN_FEATURES", ALL])
    file = tmp_path / "timm.yaml"
    file.write_text("MODEL: {TIMM: {NORM: FrozenBN, MODEL_ARGS: {stem_width: 8}}}")
    cfg.merge_from_file(str(file))
    backbone = build_backbone(cfg)
    assert backbone.bottom_up.net.conv1[0].out_channels == 8
    assert "'test_resnet' expect MODEL.PIXEL_MEAN" in caplog.text
    assert backbone(torch.randn(1, 3, 64, 64))["p6"].shape == (1, 256, 1, 1)
    # MODEL.BACKBONE.FREEZE_AT is 2 by default.
    trained = {n.split(".")[1] for n, p in backbone.bottom_up.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    cfg.MODEL.TIMM.NAME = ""
    with pytest.raises(ConfigError, match=r"MODEL\.TIMM\.NAME is empty"):
        build_backbone(cfg)


def test_yaml_normalization_of_timm_is_not_warned_of(caplog):
    cfg = small_yaml()
    wanted = timm_normalization("test_resnet")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = wanted["pixel_mean"], wanted["pixel_std"]
    cfg.INPUT.FORMAT, cfg.MODEL.BACKBONE.NAME = "RGB", "build_timm_backbone"
    assert list(build_backbone(cfg).output_shape()) == ALL
    assert "expect" not in caplog.text


def train_step(model, inputs):
    model.train()
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_yaml_c4_trains():
    """res4 alone under the C4 heads, whose fifth stage is Detectron2's: 192 channels into it."""
    cfg = small_yaml()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "MaskRCNN", "MODEL.MASK_ON", True])
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "MaskRCNNC4ROIHeads"])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.NAME", "FCNMaskHead", "MODEL.ROI_MASK_HEAD.NUM_CONV", 0])
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.OUT_FEATURES", ["res4"]])
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", 48, "MODEL.RESNETS.NORM", "BN"])
    cfg.merge_from_list(["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8])
    assert not train_step(build_model(cfg), synthetic_inputs([(70, 90), (64, 64)]))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_mambaout"])
def test_lazy_config_trains_and_predicts(name):
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
    cfg.backbone.bottom_up = L(TimmBackbone)(name=name, out_features=ALL)
    cfg.update(timm_normalization(name))
    cfg.backbone.out_channels = 16
    cfg.roi_heads.batch_size_per_image = 8
    cfg.roi_heads.box_head.fc_dims = [16, 16]
    cfg.roi_heads.mask_head.conv_dims = [16, 16]
    model = instantiate(cfg)
    inputs = synthetic_inputs([(75, 101), (64, 64)])
    assert not train_step(model, inputs)
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert [len(output["instances"].image_size) for output in outputs] == [2, 2]
