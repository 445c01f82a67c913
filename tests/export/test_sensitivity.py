"""Which layers are quantized: groups by parts of a model, and what is found of them by measuring."""

from __future__ import annotations

import pytest

from mrcnn_plugin.export.quantization import Layer
from mrcnn_plugin.export.sensitivity import groups_of, harmless_groups


def network(backbone: int) -> list[Layer]:
    """A backbone with folded norms, FPN, RPN and heads."""
    layers = [Layer(f"conv{index}", "Convolution", f"Multiply_{index}") for index in range(backbone)]
    for part in (
        "backbone.fpn_lateral2",
        "proposal_generator.rpn_head.conv",
        "roi_heads.box_head.fc1",
        "roi_heads.box_head.fc2",
        "roi_heads.mask_head.mask_fcn1",
    ):
        layers.append(Layer(part.rpartition(".")[2], "Convolution", f"model.{part}.weight"))
    return layers


def test_groups_are_runs_of_the_backbone_and_parts_of_the_heads():
    groups = groups_of(network(10))
    assert [(group.name, len(group.layers)) for group in groups] == [
        ("backbone 1 to 8", 8),
        ("backbone 9 to 11", 3),
        ("proposal_generator.rpn_head", 1),
        ("roi_heads.box_head", 2),
        ("roi_heads.mask_head", 1),
    ]
    # In the order of the graph, FPN with the backbone.
    assert groups[1].layers == ("conv8", "conv9", "fpn_lateral2")


@pytest.mark.parametrize("harmful", [{"conv0"}, {"conv3", "conv9"}, {"fc2"}, set()])
def test_every_layer_but_the_harmful_ones_is_found(harmful):
    layers = network(10)
    measured = []

    def loss_of(group):
        measured.append(group.name)
        return 0.01 * len(group.layers) + sum(name in harmful for name in group.layers)

    groups = harmless_groups(layers, loss_of, allowed=0.25)
    found = [name for group in groups for name in group.layers]
    assert sorted(found) == sorted({layer.name for layer in layers} - harmful)
    assert [group.loss for group in groups] == sorted(group.loss for group in groups)
    # 5 groups, and of each harmful run of 8 at most two halves a level.
    assert len(measured) <= 5 + 6 * len(harmful)


def test_nothing_is_harmless_where_every_layer_harms():
    assert harmless_groups(network(3), lambda group: 1.0, allowed=0.25) == []
