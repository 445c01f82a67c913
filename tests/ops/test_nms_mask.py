"""nms_mask: values computed by hand, and torchvision's nms group by group."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from mrcnn_plugin.ops import nms_mask, reference


@pytest.mark.usefixtures("kernels")
def test_hand_computed():
    # IoU of the first two: 81 / 119; the third is elsewhere, the fourth takes no part.
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.9, 0.1, -torch.inf])
    kept = nms_mask(torch.stack([boxes, boxes]), torch.stack([scores, scores.flip(0)]), 0.6)
    assert kept.tolist() == [[False, True, True, False], [False, True, True, True]]
    assert nms_mask(boxes[None], scores[None], 0.7).tolist() == [[True, True, True, False]]


@given(groups=st.integers(0, 4), count=st.integers(0, 40), seed=st.integers(0, 99))
def test_equals_torchvision(groups, count, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(groups, count, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + torch.rand(groups, count, 2, generator=generator) * 20], dim=2)
    scores = torch.rand(groups, count, generator=generator)
    kept = nms_mask(boxes, scores, 0.4)
    for group in range(groups):
        expected = torchvision.ops.nms(boxes[group], scores[group], 0.4)
        assert kept[group].nonzero()[:, 0].tolist() == sorted(expected.tolist())


def test_equal_scores_keep_their_order_and_nan_takes_no_part():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 60, 10]])
    scores = torch.tensor([[torch.nan, 0.5, 0.5, torch.inf]])
    for kept in (nms_mask(boxes[None], scores, 0.5), reference.nms.nms_mask(boxes[None], scores, 0.5)):
        assert kept.tolist() == [[False, True, False, True]]


@given(groups=st.integers(0, 4), count=st.integers(0, 300), seed=st.integers(0, 99))
def test_equals_reference(groups, count, seed):
    """Scores that tie, that are -inf, and memory in another order, as classes have it."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, groups, 4, generator=generator).transpose(0, 1) * 20
    boxes[..., 2:] += boxes[..., :2]
    scores = torch.randint(-2, 6, (count, groups), generator=generator).transpose(0, 1) / 4
    scores = torch.where(scores < 0, -torch.inf, scores)
    assert torch.equal(nms_mask(boxes, scores, 0.4), reference.nms.nms_mask(boxes, scores, 0.4))


def test_opcheck():
    boxes, scores = torch.rand(2, 5, 4), torch.rand(2, 5)
    torch.library.opcheck(torch.ops.mrcnn_plugin.nms_mask, (boxes, scores, 0.5))


@pytest.mark.parametrize(
    ("boxes", "scores", "error", "message"),
    [
        ((3, 4), (3,), ValueError, r"boxes must have shape \(B, K, 4\), got \(3, 4\)"),
        ((2, 3, 4), (2, 2), ValueError, r"scores must have shape \(B, K\) = \(2, 3\), got \(2, 2\)"),
    ],
)
def test_wrong_shapes(boxes, scores, error, message):
    with pytest.raises(error, match=message):
        nms_mask(torch.zeros(boxes), torch.zeros(scores), 0.5)


def test_wrong_dtype():
    with pytest.raises(TypeError, match=r"boxes must be float32, got torch\.float64"):
        nms_mask(torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2), 0.5)
