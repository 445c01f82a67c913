"""Adaptive feature pooling: every level, one call, fused by maximum after the heads' first layer."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import Boxes
from torch import nn

from mrcnn_plugin.modeling import ROIPooler
from mrcnn_plugin.projects.panet import AdaptiveBoxHead, AdaptiveFeaturePooler, LevelFusion

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
SHAPE = ShapeSpec(channels=3, height=7, width=7)


def pyramid(num_images=2):
    torch.manual_seed(0)
    return [torch.randn(num_images, 3, int(96 * s), int(128 * s)) for s in SCALES]


def boxes_of(*counts):
    torch.manual_seed(1)
    lists = []
    for count in counts:
        corner = torch.rand(count, 2) * 50
        lists.append(Boxes(torch.cat([corner, corner + torch.rand(count, 2) * 70 + 1], dim=1)))
    return lists


@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlignV2Max"])
def test_pooled_features_equal_four_separate_poolings(pooler_type):
    features, boxes = pyramid(), boxes_of(5, 3)
    pooled = AdaptiveFeaturePooler(7, SCALES, 0, pooler_type)(features, boxes)
    assert pooled.shape == (8, 4, 3, 7, 7)
    for level, scale in enumerate(SCALES):
        apart = ROIPooler(7, (scale,), 0, pooler_type)([features[level]], boxes)
        torch.testing.assert_close(pooled[:, level], apart)


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_images_without_boxes(counts):
    pooled = AdaptiveFeaturePooler(7, SCALES, 0, "ROIAlignV2")(pyramid(), boxes_of(*counts))
    assert pooled.shape == (sum(counts), 4, 3, 7, 7)
    assert AdaptiveBoxHead(SHAPE, num_levels=4, conv_dims=[], fc_dims=[8])(pooled).shape == (sum(counts), 8)


def test_no_images():
    pooled = AdaptiveFeaturePooler(7, SCALES, 0, "ROIAlignV2")(pyramid(0), [])
    assert pooled.shape == (0, 4, 3, 7, 7)


@pytest.mark.parametrize("pooler_type", ["ROIPool", "ROIWarp", "ROIAlignRotated"])
def test_other_pooler_types_are_named(pooler_type):
    with pytest.raises(ValueError, match=f"must be one of ROIAlign's, got '{pooler_type}'"):
        AdaptiveFeaturePooler(7, SCALES, 1, pooler_type)


def test_fusion_is_the_element_wise_maximum():
    """Two levels, each with its own weight: max(2 * 1, -1 * 3) = 2, max(2 * -1, -1 * -4) = 4."""
    fusion = LevelFusion.like(nn.Linear(2, 2), 2)
    with torch.no_grad():
        for layer, factor in zip(fusion, (2.0, -1.0)):
            layer.weight.copy_(factor * torch.eye(2))
            layer.bias.zero_()
    x = torch.tensor([[[1.0, -1.0], [3.0, -4.0]]])
    assert fusion(x).tolist() == [[2.0, 4.0]]


def test_each_level_has_its_own_initial_weights():
    fusion = LevelFusion.like(nn.Linear(20, 30), 3)
    assert len({layer.weight.sum().item() for layer in fusion}) == 3
    assert [layer.bias.abs().sum().item() for layer in fusion] == [0, 0, 0]


def test_a_wrong_number_of_levels_is_named():
    with pytest.raises(ValueError, match=r"x must have shape \(K, 3, \.\.\.\).*got \(5, 4, 2\)"):
        LevelFusion.like(nn.Linear(2, 2), 3)(torch.zeros(5, 4, 2))


@pytest.mark.parametrize(("conv_dims", "fc_dims"), [([], [8, 6]), ([5, 4], [6]), ([5], [])])
def test_box_head_fuses_after_its_first_layer(conv_dims, fc_dims):
    """Four plain heads that share all but the first layer, the maximum taken between."""
    torch.manual_seed(0)
    head = AdaptiveBoxHead(SHAPE, num_levels=4, conv_dims=conv_dims, fc_dims=fc_dims)
    plain = FastRCNNConvFCHead(SHAPE, conv_dims=conv_dims, fc_dims=fc_dims)
    assert head.output_shape == plain.output_shape
    first = "conv1" if conv_dims else "fc1"
    shared = {name: value for name, value in head.state_dict().items() if not name.startswith(first)}
    x = torch.randn(6, 4, 3, 7, 7)
    outputs = []
    for level in range(4):
        one = {
            name.replace(f"{first}.{level}.", f"{first}."): value
            for name, value in head.state_dict().items()
            if name.startswith(f"{first}.{level}.")
        }
        plain.load_state_dict({**shared, **one})
        y = x[:, level]
        for name, layer in plain.named_children():
            y = layer(y)
            if name == first:
                break
        outputs.append(y)
    fused = torch.stack(outputs).max(dim=0).values
    names = [name for name, _ in plain.named_children()]
    for name in names[names.index(first) + 1 :]:
        fused = getattr(plain, name)(fused)
    torch.testing.assert_close(head(x), fused)


def test_parameters_are_the_plain_heads_but_for_the_first_layer():
    names = AdaptiveBoxHead(SHAPE, num_levels=2, conv_dims=[], fc_dims=[8, 6]).state_dict()
    layers = ("fc1.0", "fc1.1", "fc2")
    assert set(names) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
