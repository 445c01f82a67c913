"""Matching, sampling and box losses against Detectron2's own functions, with the same random numbers."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st

from mrcnn_plugin.modeling.matching import (
    SampledProposals,
    box_deltas,
    box_regression_loss,
    match,
    sample,
    select_foreground,
    to_device,
    where_true,
)

MATCHERS = {
    "RPN": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
    "RoI heads": Matcher([0.5], [0, 1], allow_low_quality_matches=False),
}


@pytest.mark.parametrize("matcher", MATCHERS.values(), ids=MATCHERS)
@given(truths=st.integers(0, 4), boxes=st.integers(0, 40), seed=st.integers(0, 99))
def test_matches_are_detectron2s(matcher, truths, boxes, seed):
    # Few different values, so that there are ties.
    quality = torch.randint(11, (truths, boxes), generator=torch.Generator().manual_seed(seed)) / 10
    index, labels = match(matcher, quality)
    expected_index, expected_labels = matcher(quality)
    assert labels.dtype == expected_labels.dtype
    assert torch.equal(index, expected_index)
    assert torch.equal(labels, expected_labels)


def test_another_matcher_is_asked():
    class Nothing(Matcher):
        def __call__(self, quality):
            return torch.zeros(quality.shape[1]).long(), torch.full((quality.shape[1],), -1)

    matcher = Nothing([0.5], [0, 1])
    assert match(matcher, torch.ones(2, 3))[1].tolist() == [-1, -1, -1]


@given(sizes=st.lists(st.integers(0, 60), max_size=3), number=st.integers(0, 20), seed=st.integers(0, 99))
def test_samples_are_detectron2s(sizes, number, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(-1, 4, (size,), generator=generator) for size in sizes]
    torch.manual_seed(seed)
    samples = sample(labels, number, 0.25, bg_label=3)
    torch.manual_seed(seed)
    expected = [subsample_labels(one, number, 0.25, 3) for one in labels]
    assert len(samples) == len(expected)
    for ours, theirs in zip(samples, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_where_true_by_hand():
    first, second = where_true([torch.tensor([False, True, True, False, True]), torch.zeros(0).bool()])
    assert (first.count, second.count) == (3, 0)
    assert first.first(2).tolist() == [1, 2]
    assert first[torch.tensor([2, 0])].tolist() == [4, 1]
    assert second.first(0).tolist() == []


def boxes_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 50], dim=1)


def test_deltas_are_detectron2s():
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    boxes, targets = boxes_of(30, 0), boxes_of(30, 1)
    assert torch.equal(box_deltas(transform, boxes, targets), transform.get_deltas(boxes, targets))


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_losses_are_detectron2s(kind):
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    boxes, targets = boxes_of(20, 0), boxes_of(20, 1)
    deltas = torch.randn(20, 4, generator=torch.Generator().manual_seed(2)) * 0.2
    loss = box_regression_loss(kind, transform, deltas, boxes, targets, 0.1)
    everything = torch.ones(1, 20, dtype=torch.bool)
    expected = _dense_box_regression_loss(
        [Boxes(boxes)], transform, [deltas[None]], [targets], everything, kind, 0.1
    )
    assert loss.shape == (20,)
    torch.testing.assert_close(loss.sum(), expected)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match=r"smooth_l1 or one of .*, got 'l3'"):
        box_regression_loss("l3", None, *torch.zeros(3, 1, 4))


def test_foreground_of_sampled_and_of_other_proposals():
    classes = torch.tensor([1, 0, 5, 5])
    sampled = SampledProposals((9, 9), 2, gt_classes=classes, scores=torch.arange(4))
    assert select_foreground([sampled], 5)[0].scores.tolist() == [0, 1]
    shuffled = Instances((9, 9), gt_classes=classes[[2, 0, 3, 1]], scores=torch.arange(4))
    assert select_foreground([shuffled], 5)[0].scores.tolist() == [1, 3]


def test_to_device_keeps_every_field():
    instances = Instances(
        (4, 5), gt_boxes=Boxes(torch.ones(2, 4)), gt_classes=torch.arange(2), names=["a", "b"]
    )
    moved = to_device(instances, torch.device("meta"))
    assert moved.image_size == (4, 5)
    assert moved.gt_boxes.device.type == moved.gt_classes.device.type == "meta"
    assert moved.names == ["a", "b"]
