import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from mrcnn_plugin.modeling import FCNMaskHead, MLPMaskHead, SoftmaxMaskHead
from mrcnn_plugin.modeling.mask_head import class_logits

SHAPE = ShapeSpec(channels=8, height=6, width=6)
HEADS = {
    "fcn": lambda k: FCNMaskHead(SHAPE, num_classes=k, conv_dims=[8, 8]),
    "softmax": lambda k: SoftmaxMaskHead(SHAPE, num_classes=k, conv_dims=[8, 8]),
    "mlp": lambda k: MLPMaskHead(SHAPE, num_classes=k, fc_dims=[16], mask_size=12),
}


def spread(head):
    """Gives the predictor weights of a size at which classes and pixels differ."""
    torch.manual_seed(3)
    for parameter in head.parameters():
        parameter.data.normal_(std=0.3)
    return head


def proposals(counts, num_classes=5, masks=True):
    torch.manual_seed(5)
    images = []
    for count in counts:
        image = Instances((40, 40))
        image.proposal_boxes = Boxes(torch.tensor([[4.0, 4.0, 28.0, 28.0]]).repeat(count, 1))
        image.gt_classes = torch.randint(0, num_classes, (count,))
        if masks:
            image.gt_masks = PolygonMasks([[[4, 4, 28, 4, 28, 16, 4, 16]] for _ in range(count)])
        images.append(image)
    return images


def detections(counts, num_classes=5):
    return [
        Instances((40, 40), pred_classes=image.gt_classes, pred_boxes=image.proposal_boxes)
        for image in proposals(counts, num_classes)
    ]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_class_logits_equal_the_convolution_then_the_choice(bias, memory_format):
    torch.manual_seed(0)
    predictor = torch.nn.Conv2d(8, 5, 1, bias=bias).double()
    x = torch.randn(7, 8, 4, 4).double().to(memory_format=memory_format).requires_grad_()
    classes = torch.tensor([0, 4, 2, 2, 1, 0, 3])
    expected = predictor(x)[torch.arange(7), classes].unsqueeze(1)
    actual = class_logits(x, predictor, classes)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    inputs = [x, *predictor.parameters()]
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    for got, want in zip(torch.autograd.grad((actual * weights).sum(), inputs), expected_gradients):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("num_classes", [5, 1])
def test_fcn_head_equals_detectron2(num_classes, event_storage):
    ours = spread(HEADS["fcn"](num_classes))
    theirs = MaskRCNNConvUpsampleHead(SHAPE, num_classes=num_classes, conv_dims=[8, 8])
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(5, 8, 6, 6)
    images = proposals([2, 0, 3])
    loss, expected = ours(x, images)["loss_mask"], theirs(x, images)["loss_mask"]
    torch.testing.assert_close(loss, expected)
    ours_logged = {name: value for name, (value, _) in event_storage.latest().items()}
    theirs(x, images)
    assert ours_logged == {name: value for name, (value, _) in event_storage.latest().items()}
    assert set(ours_logged) == {f"mask_rcnn/{n}" for n in ("accuracy", "false_positive", "false_negative")}

    ours.eval(), theirs.eval()
    for got, want in zip(ours(x, detections([2, 0, 3])), theirs(x, detections([2, 0, 3]))):
        torch.testing.assert_close(got.pred_masks, want.pred_masks)
    torch.testing.assert_close(ours.layers(x), theirs.layers(x))


def test_only_the_ground_truth_class_is_trained(event_storage):
    head = spread(HEADS["fcn"](5))
    images = proposals([3])
    images[0].gt_classes = torch.tensor([1, 3, 3])
    head(torch.randn(3, 8, 6, 6), images)["loss_mask"].backward()
    touched = head.predictor.weight.grad.flatten(1).abs().sum(dim=1) > 0
    assert touched.tolist() == [False, True, False, True, False]


def test_loss_by_hand(event_storage):
    """Logit a everywhere; the upper half of each box is foreground: softplus(a) - a / 2."""
    head = HEADS["fcn"](5)
    for parameter in head.parameters():
        parameter.data.zero_()
    head.predictor.bias.data.fill_(1.5)
    loss = head(torch.randn(4, 8, 6, 6), proposals([4]))["loss_mask"]
    assert loss.item() == pytest.approx(math.log1p(math.exp(1.5)) - 0.75, abs=1e-5)
    logged = {name: value for name, (value, _) in event_storage.latest().items()}
    assert logged["mask_rcnn/accuracy"] == pytest.approx(0.5)
    assert logged["mask_rcnn/false_positive"] == 1
    assert logged["mask_rcnn/false_negative"] == 0


def test_softmax_loss_and_probabilities_by_hand(event_storage):
    """Logits of 0 but for class 2 and the background: half of the pixels pay for each."""
    head = HEADS["softmax"](5)
    for parameter in head.parameters():
        parameter.data.zero_()
    head.predictor.bias.data[2], head.predictor.bias.data[5] = 2.0, 1.0
    images = proposals([4])
    images[0].gt_classes[:] = 2
    normalizer = math.exp(2) + math.exp(1) + 4
    loss = head(torch.randn(4, 8, 6, 6), images)["loss_mask"]
    assert loss.item() == pytest.approx(math.log(normalizer) - (2 + 1) / 2, abs=1e-5)

    results = detections([2])
    results[0].pred_classes = torch.tensor([2, 0])
    head.eval()(torch.randn(2, 8, 6, 6), results)
    assert results[0].pred_masks.shape == (2, 1, 12, 12)
    assert results[0].pred_masks[0].mean().item() == pytest.approx(math.exp(2) / normalizer, abs=1e-5)
    assert results[0].pred_masks[1].mean().item() == pytest.approx(1 / normalizer, abs=1e-5)


@pytest.mark.parametrize("num_classes", [5, 1])
def test_mlp_head_chooses_the_class(num_classes, event_storage):
    head = spread(HEADS["mlp"](num_classes))
    x = torch.randn(3, 8, 6, 6)
    results = detections([1, 2])
    head.eval()(x, results)
    classes = torch.cat([image.pred_classes for image in results]) % num_classes
    flat = torch.relu(x.flatten(1) @ head.mask_fc1.weight.T + head.mask_fc1.bias)
    logits = (flat @ head.predictor.weight.T + head.predictor.bias).view(3, num_classes, 12, 12)
    masks = torch.cat([image.pred_masks for image in results])
    torch.testing.assert_close(masks[:, 0], logits[torch.arange(3), classes].sigmoid())
    loss = head.train()(x, proposals([1, 2]))["loss_mask"]
    loss.backward()
    assert head.mask_fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_no_region_trains_to_zero(kind, counts, event_storage):
    head = HEADS[kind](5)
    loss = head(torch.zeros(0, 8, 6, 6, requires_grad=True), proposals(counts))["loss_mask"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_images_without_masks_are_left_out(kind, event_storage):
    head = spread(HEADS[kind](5))
    x = torch.randn(5, 8, 6, 6)
    images = proposals([3, 2])
    images[0].remove("gt_masks")
    loss = head(x, images)["loss_mask"]
    torch.testing.assert_close(loss, head(x[3:], images[1:])["loss_mask"])
    images[1].remove("gt_masks")
    none = head(x, images)["loss_mask"]
    none.backward()
    assert none.item() == 0


def test_bitmask_ground_truth(event_storage):
    head = spread(HEADS["fcn"](5))
    x = torch.randn(2, 8, 6, 6)
    images = proposals([2])
    expected = head(x, images)["loss_mask"]
    images[0].gt_masks = BitMasks.from_polygon_masks(images[0].gt_masks, 40, 40)
    torch.testing.assert_close(head(x, images)["loss_mask"], expected, atol=2e-2, rtol=0)


def test_pictures_of_masks(event_storage):
    head = FCNMaskHead(SHAPE, num_classes=5, conv_dims=[8, 8], vis_period=1)
    head(torch.randn(2, 8, 6, 6), proposals([2]))
    pictures = event_storage._vis_data
    assert [picture.shape for _, picture, _ in pictures] == [(3, 12, 24)] * 2


def test_mlp_head_needs_a_hidden_layer():
    with pytest.raises(ValueError, match="fc_dims"):
        MLPMaskHead(SHAPE, num_classes=5, fc_dims=[])
