"""Fully-connected fusion, and the maximum over levels in the mask head."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, PolygonMasks

from mrcnn_plugin.modeling import FCNMaskHead
from mrcnn_plugin.projects.panet import FullyConnectedMask, PANetMaskHead

SHAPE = ShapeSpec(channels=4, height=6, width=6)


def build(**kwargs):
    torch.manual_seed(0)
    return PANetMaskHead(SHAPE, num_classes=3, conv_dims=[4, 4, 6, 4, 4], **kwargs)


def test_without_its_switches_it_is_the_plain_head():
    head = build()
    plain = FCNMaskHead(SHAPE, num_classes=3, conv_dims=[4, 4, 6, 4, 4])
    plain.load_state_dict(head.state_dict())
    x, classes = torch.randn(5, 4, 6, 6), [torch.tensor([0, 2]), torch.tensor([1, 1, 0])]
    torch.testing.assert_close(head.masks_of(x, classes), plain.masks_of(x, classes))


def test_fully_connected_logits_are_added_to_every_class():
    """The fc layer's bias alone: pixel (y, x) of the 12 x 12 map gets 12 y + x, whatever the class."""
    head = build(fully_connected_fusion=True)
    plain = FCNMaskHead(SHAPE, num_classes=3, conv_dims=[4, 4, 6, 4, 4])
    plain.load_state_dict(head.state_dict(), strict=False)
    with torch.no_grad():
        head.fully_connected.fc.weight.zero_()
        head.fully_connected.fc.bias.copy_(torch.arange(144.0))
    x = torch.randn(2, 4, 6, 6)
    difference = head.layers(x) - plain.layers(x)
    assert difference.shape == (2, 3, 12, 12)
    expected = torch.arange(144.0).view(1, 1, 12, 12).expand(2, 3, -1, -1)
    torch.testing.assert_close(difference, expected, atol=1e-4, rtol=0)
    chosen = head.masks_of(x, [torch.tensor([2]), torch.tensor([0])])
    torch.testing.assert_close(chosen[:, 0], head.layers(x)[[0, 1], [2, 0]])


def test_short_path_by_hand():
    """Channels 2, 1 x 1 pixels. conv4 = ReLU(x) = (3, 0); conv5 = their sum 3; fc = (1, 2, 3, 4) * 3 + 1."""
    branch = FullyConnectedMask(ShapeSpec(channels=2, height=1, width=1), mask_size=2)
    with torch.no_grad():
        for conv in (branch.conv4_fc, branch.conv5_fc):
            conv.weight.zero_()
            conv.bias.zero_()
        branch.conv4_fc.weight[:, :, 1, 1] = torch.eye(2)
        branch.conv5_fc.weight[0, :, 1, 1] = 1
        branch.fc.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        branch.fc.bias.fill_(1)
    assert branch(torch.tensor([3.0, -5.0]).view(1, 2, 1, 1)).tolist() == [[[[4, 7], [10, 13]]]]


def test_the_branch_leaves_after_the_third_convolution():
    """What mask_fcn4 does has no part in it; conv5_fc has half of conv3's channels."""
    head = build(fully_connected_fusion=True)
    assert head.fully_connected.conv4_fc.in_channels == 6
    assert head.fully_connected.conv5_fc.out_channels == 3
    assert head.fully_connected.fc.in_features == 3 * 6 * 6
    seen = []
    head.fully_connected.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 4, 6, 6)
    head.layers(x)
    expected = head.mask_fcn3(head.mask_fcn2(head.mask_fcn1(x)))
    torch.testing.assert_close(seen[0], expected)


def test_levels_are_fused_after_the_first_convolution():
    head = build(num_levels=4)
    x = torch.randn(3, 4, 4, 6, 6)
    levels = [head.mask_fcn1[level](x[:, level]) for level in range(4)]
    fused = torch.stack(levels).max(dim=0).values
    for layer in (head.mask_fcn2, head.mask_fcn3, head.mask_fcn4, head.deconv, head.deconv_relu):
        fused = layer(fused)
    torch.testing.assert_close(head.layers(x), head.predictor(fused))


def test_too_few_convolutions_are_named():
    with pytest.raises(ValueError, match=r"three convolutions.*got \[4, 4, 4\]"):
        PANetMaskHead(SHAPE, num_classes=3, conv_dims=[4, 4, 4], fully_connected_fusion=True)


def proposals(count):
    image = Instances((32, 32), proposal_boxes=Boxes(torch.tensor([[4.0, 4, 20, 20]]).repeat(count, 1)))
    image.gt_classes = torch.zeros(count, dtype=torch.int64)
    image.gt_masks = PolygonMasks([[[4.0, 4, 20, 4, 20, 20, 4, 20]]] * count)
    return image


@pytest.mark.parametrize("counts", [(2, 1), (0, 0)])
def test_loss_reaches_every_parameter(counts, event_storage):
    head = build(num_levels=2, fully_connected_fusion=True)
    losses = head(torch.randn(sum(counts), 2, 4, 6, 6), [proposals(count) for count in counts])
    assert set(losses) == {"loss_mask"}
    losses["loss_mask"].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    if not sum(counts):
        assert losses["loss_mask"].item() == 0
