"""The bottom-up path: which maps are added, with what weights, in what order."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

from mrcnn_plugin.projects.panet import PathAggregationFPN


class Maps(Backbone):
    """Three maps of 2 channels at strides 4, 8, 16, constant over a map."""

    def forward(self, x):
        n, _, h, w = x.shape
        return {f"res{i}": x.new_full((n, 2, h >> i, w >> i), float(i)) for i in (2, 3, 4)}

    def output_shape(self):
        return {f"res{i}": ShapeSpec(channels=2, stride=2**i) for i in (2, 3, 4)}


def build(cls=PathAggregationFPN, top_block=None, **kwargs):
    torch.manual_seed(0)
    return cls(Maps(), ["res2", "res3", "res4"], 2, top_block=top_block, **kwargs)


def as_identity(conv, factor=1.0):
    """Passes each channel's centre pixel, times `factor`."""
    with torch.no_grad():
        conv.weight.zero_()
        for channel in range(2):
            conv.weight[channel, channel, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = factor
        conv.bias.zero_()


def test_sums_by_hand():
    """Lateral and output convolutions pass their input, so P4 = 4, P3 = 3 + 4 = 7, P2 = 2 + 7 = 9.

    With down = 10 x and output = x / 2: N2 = 9, N3 = (7 + 90) / 2 = 48.5, N4 = (4 + 485) / 2 = 244.5.
    """
    fpn = build(top_block=LastLevelMaxPool())
    fpn.top_block.in_feature = "p4"
    for name, conv in fpn.named_children():
        if name.startswith(("fpn_", "path_")):
            as_identity(conv, {"path_d": 10.0, "path_o": 0.5}.get(name[:6], 1.0))
    levels = fpn(torch.zeros(1, 3, 64, 96))
    assert list(levels) == ["p2", "p3", "p4", "p5"]
    assert [levels[name].unique().tolist() for name in levels] == [[9], [48.5], [244.5], [244.5]]
    assert [tuple(level.shape[2:]) for level in levels.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_relu_follows_each_convolution():
    """down = -x, which the ReLU makes 0: N3 = relu(-(7 + 0)) = 0, though P3 = 7."""
    fpn = build()
    for name, conv in fpn.named_children():
        if name.startswith(("fpn_", "path_")):
            as_identity(conv, -1.0 if name.startswith("path_") else 1.0)
    levels = fpn(torch.zeros(1, 3, 64, 64))
    assert levels["p2"].unique().tolist() == [9]
    assert levels["p3"].unique().tolist() == levels["p4"].unique().tolist() == [0]
    as_identity(fpn.path_output3, 1.0)
    # The way down gives 0, not -9.
    assert fpn(torch.zeros(1, 3, 64, 64))["p3"].unique().tolist() == [7]


def test_the_finest_level_is_fpns_and_its_weights_load():
    path, fpn = build(), build(FPN)
    path.load_state_dict(fpn.state_dict(), strict=False)
    image = torch.zeros(2, 3, 64, 64)
    assert torch.equal(path(image)["p2"], fpn(image)["p2"])
    assert not torch.allclose(path(image)["p3"], fpn(image)["p3"])
    new = set(path.state_dict()) - set(fpn.state_dict())
    layers = ("path_down3", "path_down4", "path_output3", "path_output4")
    assert new == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert path.output_shape() == fpn.output_shape()
    assert path.size_divisibility == fpn.size_divisibility


@pytest.mark.parametrize(("in_feature", "changes"), [("res4", False), ("p4", True)])
def test_the_top_block_follows_the_path_only_where_it_reads_it(in_feature, changes):
    image = torch.zeros(1, 3, 64, 64)
    torch.manual_seed(1)
    block = LastLevelP6P7(2, 2, in_feature=in_feature)
    path, fpn = build(top_block=block), build(FPN, top_block=block)
    path.load_state_dict(fpn.state_dict(), strict=False)
    got, want = path(image), fpn(image)
    assert list(got) == ["p2", "p3", "p4", "p5", "p6"]
    for name in ("p5", "p6"):
        assert torch.equal(got[name], want[name]) != changes


def test_norm_applies_to_the_path_too():
    fpn = build(norm="BN")
    assert fpn.path_down3.bias is None
    assert fpn.path_down3.norm.num_features == fpn.path_output4.norm.num_features == 2
