import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.structures import Boxes, Instances, Keypoints

from mrcnn_plugin.modeling import OneHotKeypointHead
from mrcnn_plugin.modeling.roi_heads import with_visible_keypoints

SHAPE = ShapeSpec(channels=4, height=7, width=7)


def head(normalizer="visible", num_keypoints=3, **kwargs):
    torch.manual_seed(0)
    return OneHotKeypointHead(
        SHAPE, num_keypoints=num_keypoints, conv_dims=[4], loss_normalizer=normalizer, **kwargs
    )


def proposals(keypoints, box=(0.0, 0.0, 28.0, 28.0)):
    """One image; keypoints: (K, num_keypoints, 3) list of x, y, visibility; 3 of them where there is none."""
    keypoints = torch.tensor(keypoints, dtype=torch.float32)
    keypoints = keypoints if len(keypoints) else keypoints.view(0, 3, 3)
    boxes = torch.tensor([box]).repeat(len(keypoints), 1)
    return Instances((40, 40), proposal_boxes=Boxes(boxes), gt_keypoints=Keypoints(keypoints))


@pytest.mark.parametrize("normalizer", ["visible", 12.0])
def test_equals_detectron2(normalizer, event_storage):
    ours = head(normalizer, loss_weight=0.5)
    theirs = KRCNNConvDeconvUpsampleHead(
        SHAPE, num_keypoints=3, conv_dims=[4], loss_normalizer=normalizer, loss_weight=0.5
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.manual_seed(1)
    images = []
    for count in (2, 0, 3):
        points = torch.cat([torch.rand(count, 3, 2) * 36, torch.randint(0, 3, (count, 3, 1))], dim=2)
        images.append(proposals(points.tolist()))
    x = torch.randn(5, 4, 7, 7)
    losses = [model(x, images)["loss_keypoint"] for model in (ours, theirs)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, m.parameters()) for loss, m in zip(losses, (ours, theirs))]
    for got, want in zip(*gradients):
        torch.testing.assert_close(got, want)

    results = []
    for model in (ours, theirs):
        boxes = Boxes(torch.tensor([[3.0, 4.0, 20.0, 33.0]] * 3))
        images = [Instances((40, 40), pred_boxes=boxes[:count]) for count in (2, 3)]
        results.append(model.eval()(x, images))
    for got, want in zip(*results):
        torch.testing.assert_close(got.pred_keypoints, want.pred_keypoints, atol=1e-3, rtol=0)
        torch.testing.assert_close(got.pred_keypoint_heatmaps, want.pred_keypoint_heatmaps)


def test_loss_by_hand(event_storage):
    """Uniform logits: each keypoint that counts pays log(S^2); the others nothing."""
    uniform = head()
    for parameter in uniform.parameters():
        parameter.data.zero_()
    # Visible and inside, labelled though hidden (counts), unlabelled, outside.
    image = proposals([[[3, 3, 2], [5, 9, 1], [7, 7, 0]], [[35, 3, 2], [28, 28, 2], [1, 1, 0]]])
    x = torch.randn(2, 4, 7, 7)
    assert uniform(x, [image])["loss_keypoint"].item() == pytest.approx(math.log(28 * 28), abs=1e-4)
    uniform.loss_normalizer = 2.0
    by_images = uniform(x, [image])["loss_keypoint"].item()
    assert by_images == pytest.approx(3 * math.log(28 * 28) / 2, abs=1e-4)


def test_the_one_hot_position(event_storage):
    """Raising the logit of the keypoint's own cell lowers the loss; of its neighbours, not."""
    image = proposals([[[10.5, 4.2, 2]]])
    from mrcnn_plugin.modeling.keypoint_head import keypoint_loss

    logits = torch.zeros(1, 1, 28, 28, requires_grad=True)
    keypoint_loss(logits, [image], None).backward()
    assert (logits.grad < 0).nonzero().tolist() == [[0, 0, 4, 10]]
    assert logits.grad[0, 0, 4, 10].item() == pytest.approx(1 / 784 - 1, abs=1e-5)


@pytest.mark.parametrize("normalizer", ["visible", 12.0])
@pytest.mark.parametrize("keypoints", [[], [[[3, 3, 0], [5, 5, 0], [5, 5, 0]]], [[[99, 3, 2]] * 3]])
def test_nothing_visible_trains_to_zero(normalizer, keypoints, event_storage):
    model = head(normalizer)
    loss = model(torch.randn(len(keypoints), 4, 7, 7), [proposals(keypoints)])["loss_keypoint"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_no_detection():
    empty = Instances((40, 40), pred_boxes=Boxes(torch.zeros(0, 4)))
    head().eval()(torch.zeros(0, 4, 7, 7), [empty])
    assert empty.pred_keypoints.shape == (0, 3, 3)


def test_selection_of_proposals_with_visible_keypoints(event_storage):
    image = proposals([[[3, 3, 0]], [[3, 3, 1]], [[30, 3, 2]], [[28, 0, 2]]])
    bare = Instances((40, 40), proposal_boxes=image.proposal_boxes)
    kept, none = with_visible_keypoints([image, bare])
    assert kept.gt_keypoints.tensor[:, 0].tolist() == [[3, 3, 1], [28, 0, 2]]
    assert len(none) == 0
    assert event_storage.latest()["keypoint_head/num_fg_samples"][0] == 1
