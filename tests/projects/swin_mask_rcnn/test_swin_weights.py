"""Names of Swin's official releases, against timm's own converter of them."""

import re

import pytest
import torch
from detectron2.config import instantiate
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer import checkpoint_filter_fn
from torch.nn.functional import layer_norm

from mrcnn_plugin import model_zoo
from mrcnn_plugin.checkpoint import read_checkpoint
from mrcnn_plugin.projects.swin_mask_rcnn import SwinTransformer
from mrcnn_plugin.projects.swin_mask_rcnn.weights import convert_swin, main

SMALL = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 2}


def timm_swin():
    torch.manual_seed(0)
    model = TimmSwin(img_size=64, num_classes=5, always_partition=True, **SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def official(model):
    """The classifier of the official release with timm's weights: merging a stage earlier, its buffers."""
    state = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        state[name.replace("head.fc.", "head.")] = value
    for stage, depth in enumerate(SMALL["depths"]):
        for block in range(depth):
            state[f"layers.{stage}.blocks.{block}.attn.relative_position_index"] = torch.zeros(4, 4).long()
        state[f"layers.{stage}.blocks.1.attn_mask"] = torch.zeros(1, 4, 4)
    return state


def test_the_official_names_are_those_that_timm_converts():
    model = timm_swin()
    assert checkpoint_filter_fn(official(model), model).keys() == model.state_dict().keys()


def test_features_of_a_classifier_are_timms():
    model = timm_swin()
    converted = convert_swin(official(model))
    state = {name.removeprefix("backbone.bottom_up."): value for name, value in converted.items()}
    backbone = SwinTransformer(**SMALL).eval()
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    assert unexpected == []
    assert sorted(missing) == sorted(f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = backbone(images)
        expected = model.forward_intermediates(images, intermediates_only=True)
    for index, (name, one) in enumerate(zip(maps, expected, strict=True)):
        assert name == f"stage{index + 1}"
        one = layer_norm(one.permute(0, 2, 3, 1), (one.shape[1],)).permute(0, 3, 1, 2)
        torch.testing.assert_close(maps[name], one, atol=1e-5, rtol=1e-5)


def detector_state(model):
    """MMDetection's names of a Mask R-CNN, from ours: the inverse of the rules, written by hand."""
    renames = (
        (
            r"backbone\.bottom_up\.layers\.(\d)\.downsample",
            lambda m: f"backbone.layers.{int(m[1]) - 1}.downsample",
        ),
        (r"backbone\.bottom_up\.", "backbone."),
        (r"backbone\.fpn_lateral(\d)", lambda m: f"neck.lateral_convs.{int(m[1]) - 2}.conv"),
        (r"backbone\.fpn_output(\d)", lambda m: f"neck.fpn_convs.{int(m[1]) - 2}.conv"),
        (r"proposal_generator\.rpn_head\.conv", "rpn_head.rpn_conv"),
        (r"proposal_generator\.rpn_head\.objectness_logits", "rpn_head.rpn_cls"),
        (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_head.rpn_reg"),
        (r"roi_heads\.box_head\.fc(\d)", lambda m: f"roi_head.bbox_head.shared_fcs.{int(m[1]) - 1}"),
        (r"roi_heads\.box_predictor\.cls_score", "roi_head.bbox_head.fc_cls"),
        (r"roi_heads\.box_predictor\.bbox_pred", "roi_head.bbox_head.fc_reg"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)", lambda m: f"roi_head.mask_head.convs.{int(m[1]) - 1}.conv"),
        (r"roi_heads\.mask_head\.deconv", "roi_head.mask_head.upsample"),
        (r"roi_heads\.mask_head\.predictor", "roi_head.mask_head.conv_logits"),
    )
    state = {}
    for name, value in model.state_dict().items():
        for pattern, new in renames:
            name = re.sub(pattern, new, name)
        state[name] = value
    return state


@pytest.fixture(scope="module")
def detector():
    cfg = model_zoo.get_config(
        "projects/swin_mask_rcnn/configs/COCO-InstanceSegmentation/mask_rcnn_swin_T_FPN_3x"
    )
    cfg.model.backbone.bottom_up.update(**SMALL)
    cfg.model.backbone.out_channels = 16
    cfg.model.roi_heads.update(num_classes=3)
    cfg.model.roi_heads.box_head.fc_dims = [8, 8]
    cfg.model.roi_heads.mask_head.conv_dims = [8] * 5
    return instantiate(cfg.model)


def test_every_parameter_of_a_detector_finds_its_place(detector):
    source = detector_state(detector)
    assert "backbone.layers.0.downsample.reduction.weight" in source
    assert "roi_head.mask_head.convs.3.conv.bias" in source
    assert not any("bottom_up" in name or "backbone.fpn" in name for name in source)
    source["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4).long()
    converted = convert_swin(source)
    assert converted.keys() == detector.state_dict().keys()
    for name, value in detector.state_dict().items():
        assert torch.equal(converted[name], value), name


def test_command_line(detector, tmp_path, capsys):
    torch.save({"state_dict": detector_state(detector), "meta": {}}, tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")]) == 0, capsys.readouterr().err
    assert read_checkpoint(tmp_path / "out.safetensors").keys() == detector.state_dict().keys()
    torch.save(timm_swin().state_dict(), tmp_path / "timm.pth")
    assert main([str(tmp_path / "timm.pth"), str(tmp_path / "none.pth")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("convert: no layers.0.downsample")
    assert error.count("\n") == 1
    assert not (tmp_path / "none.pth").exists()


def test_names_of_others_are_refused():
    model = timm_swin()
    with pytest.raises(ValueError, match=r"no layers\.0\.downsample"):
        convert_swin(model.state_dict())
    state = official(model)
    state["layers.0.blocks.0.attn.logit_scale"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"Swin parameters .*attn\.logit_scale"):
        convert_swin(state)
