"""Swin Transformer: sizes, attention by a plain reference, dropping, freezing, decay, builders."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_backbone
from timm.models.swin_transformer import SwinTransformerBlock

from mrcnn_plugin import model_zoo
from mrcnn_plugin.export import computed
from mrcnn_plugin.export.program import any_sizes
from mrcnn_plugin.projects.swin_mask_rcnn import SwinTransformer, add_swin_config
from mrcnn_plugin.projects.swin_mask_rcnn.block import SwinBlock

SMALL = {"embed_dim": 4, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2), "window_size": 4}
COCO = "projects/swin_mask_rcnn/configs/COCO-InstanceSegmentation/mask_rcnn_swin_T_FPN_3x"


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (5, 3), (1, 1)])
def test_images_of_any_size(size):
    model = SwinTransformer(**SMALL)
    maps = model(torch.randn(2, 3, *size))
    assert list(maps) == list(model.output_shape()) == ["stage1", "stage2", "stage3", "stage4"]
    for index, (name, one) in enumerate(maps.items()):
        shape = model.output_shape()[name]
        assert (shape.channels, shape.stride) == (4 << index, 4 << index)
        sides = [math.ceil(side / 4) for side in size]
        for _ in range(index):
            sides = [math.ceil(side / 2) for side in sides]
        assert one.shape == (2, shape.channels, *sides)
    sum(one.square().mean() for one in maps.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Sized(torch.nn.Module):
    """Images whose sides are numbers of 32 pixels, as an exported model pads them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        rows, columns = (computed(side // 32) for side in x.shape[2:])
        return self.model(F.pad(x, (0, 32 * columns - x.shape[3], 0, 32 * rows - x.shape[2])))


def plain_attention(block, x):
    """Attention among the tokens of one map (H, W, C), written token by token."""
    height, width, channels = x.shape
    side, shift = block.window_size[0], block.shift_size[0]
    rows, columns = (math.ceil(n / side) * side for n in (height, width))

    # Zeros are put around the map first; what wraps around in the shift stays apart from what it meets.
    padded = x.new_zeros(rows, columns, channels)
    padded[:height, :width] = x

    def place(index, length):
        shifted = (index - shift) % length
        return shifted // side, shifted % side, shift > 0 and index < shift

    tokens = [(i, j) for i in range(rows) for j in range(columns)]
    heads, size = block.attn.num_heads, channels // block.attn.num_heads
    q, k, v = block.attn.qkv(padded).reshape(rows * columns, 3, heads, size).permute(1, 2, 0, 3)
    logits = torch.full((heads, len(tokens), len(tokens)), -torch.inf)
    for a, (i, j) in enumerate(tokens):
        for b, (m, n) in enumerate(tokens):
            (wi, ri, oi), (wm, rm, om) = place(i, rows), place(m, rows)
            (wj, rj, oj), (wn, rn, on) = place(j, columns), place(n, columns)
            if (wi, oi, wj, oj) == (wm, om, wn, on):
                entry = (ri - rm + side - 1) * (2 * side - 1) + (rj - rn + side - 1)
                bias = block.attn.relative_position_bias_table[entry]
                logits[:, a, b] = (q[:, a] * k[:, b]).sum(1) / math.sqrt(size) + bias
    out = (logits.softmax(2) @ v).permute(1, 0, 2).reshape(rows, columns, channels)
    return block.attn.proj(out)[:height, :width]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (3, 9)])
def test_attention_pads_then_shifts(size, shifted):
    torch.manual_seed(0)
    block = SwinBlock(6, 2, window_size=4, shifted=shifted)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
        x = torch.randn(2, *size, 6)
        expected = torch.stack([plain_attention(block, one) for one in x])
        torch.testing.assert_close(block.attend(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (12, 4)])
def test_mask_is_timms(size):
    block = SwinBlock(6, 2, window_size=4, shifted=True)
    x = torch.zeros(1, *size, 6)
    assert torch.equal(block.get_attn_mask(x), SwinTransformerBlock.get_attn_mask(block, x))
    assert SwinBlock(6, 2, window_size=4).get_attn_mask(x) is None


@torch.no_grad()
def test_a_traced_backbone_takes_any_size():
    model = SwinTransformer(**SMALL).eval()
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.randn(1, 3, 64, 96)
    with any_sizes():
        program = torch.export.export(Sized(model), (example,), dynamic_shapes=(any_size,), strict=False)
    traced = program.module(check_guards=False)
    for size in [(64, 96), (32, 32), (160, 224)]:
        x = torch.randn(1, 3, *size)
        for name, one in model(x).items():
            assert torch.equal(traced(x)[name], one)


def test_drop_path_grows_and_is_of_training_only():
    model = SwinTransformer(**SMALL, drop_path_rate=0.7)
    rates = [getattr(block.drop_path1, "drop_prob", 0) for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([0.1 * index for index in range(8)])
    images = torch.randn(4, 3, 32, 32)

    def last():
        return model(images)["stage4"]

    model.eval()
    assert torch.equal(last(), last())
    model.train()
    assert not torch.equal(last(), last())


@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_frozen_stages(freeze_at):
    model = SwinTransformer(**SMALL, freeze_at=freeze_at).train()
    sum(one.square().mean() for one in model(torch.randn(1, 3, 32, 32)).values()).backward()
    frozen = ["patch_embed.", "layers.0.", "layers.1."][:freeze_at]
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(tuple(frozen)), name
    training = [module.training for module in (model.patch_embed, *model.layers)]
    assert training == [False] * freeze_at + [True] * (5 - freeze_at)
    assert any(module.training for module in model.layers[0].modules()) != (freeze_at > 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": (1, 2)}, "depths and num_heads must have a number for each stage, got 4 and 2"),
        ({"out_features": ["res2"]}, r"out_features must be some of \['stage1', .*\], got \['res2'\]"),
        ({"out_features": []}, "out_features must be some of"),
        ({"freeze_at": 6}, "freeze_at must be from 0 to 5, got 6"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**{**SMALL, **arguments})


def test_norms_and_relative_positions_do_not_decay():
    cfg = model_zoo.get_config(COCO)
    cfg.model.backbone.bottom_up.update(**SMALL)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert type(optimizer) is torch.optim.AdamW
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}
    seen = set()
    for name, parameter in model.named_parameters():
        without = "norm" in name or "relative_position_bias_table" in name
        assert decay[id(parameter)] == (0.0 if without else 0.05), name
        seen.add(without)
    assert seen == {True, False}


def test_yaml():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_swin_fpn_backbone"
    with pytest.raises(ValueError, match=r"no MODEL\.SWIN: call add_swin_config"):
        build_backbone(cfg)
    add_swin_config(cfg)
    cfg.merge_from_list(["MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.NUM_HEADS", [1, 2, 4, 8]])
    cfg.MODEL.FPN.IN_FEATURES = ["stage1", "stage2", "stage3", "stage4"]
    backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert len(backbone.bottom_up.layers[2].blocks) == 6
    assert backbone(torch.randn(1, 3, 32, 64))["p5"].shape == (1, 256, 1, 2)
