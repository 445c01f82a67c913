"""nms_segments and grouped_nms: by hand, against torchvision, and by the CUDA kernel executed on the host."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from mrcnn_plugin.ops import grouped_nms, nms_segments, reference


def boxes_of(count, seed):
    """Crowded boxes, of which some are empty and some equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 10], dim=1)
    boxes[::7, 2] = boxes[::7, 0]
    if count > 3:
        boxes[3] = boxes[1]
    return boxes


def peers(boxes, offsets, threshold):
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for begin, end in pairwise(offsets):
        keep[begin + nms(boxes[begin:end], torch.arange(end - begin, 0.0, -1), threshold)] = True
    return keep


@pytest.mark.usefixtures("kernels")
def test_by_hand():
    # The second overlaps the first by 2/3; the third by 1/3, and the second by 3/5; the fourth is elsewhere.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 2, 10, 12], [0, 5, 10, 15], [50, 0, 60, 10]])
    whole = torch.tensor([0, 4])
    assert nms_segments(boxes, whole, 0.5).tolist() == [True, False, True, True]
    assert nms_segments(boxes, whole, 0.3).tolist() == [True, False, False, True]
    # At the threshold itself a box stays: 5/15 of the first and the third.
    assert nms_segments(boxes[[0, 2]], torch.tensor([0, 2]), 1 / 3 + 1e-7).tolist() == [True, True]
    # Segments do not see each other, and the last box is in none.
    assert nms_segments(boxes, torch.tensor([0, 1, 3]), 0.5).tolist() == [True, True, False, False]


@pytest.mark.usefixtures("kernels")
@given(count=st.integers(0, 300), seed=st.integers(0, 99), threshold=st.floats(0, 1))
def test_equal_to_torchvision(count, seed, threshold):
    boxes = boxes_of(count, seed)
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(count + 1, (3,), generator=generator).sort().values.tolist()
    offsets = [0, *ends]
    assert torch.equal(
        nms_segments(boxes, torch.tensor(offsets), threshold), peers(boxes, offsets, threshold)
    )


@pytest.mark.usefixtures("kernels")
@given(count=st.integers(0, 200), seed=st.integers(0, 99))
def test_groups_do_not_compete(count, seed):
    boxes = boxes_of(count, seed)
    groups = torch.randint(-1, 4, (count,), generator=torch.Generator().manual_seed(seed))
    keep = grouped_nms(boxes, groups, 4, 0.3)
    assert not keep[groups == -1].any()
    for group in range(4):
        chosen = (groups == group).nonzero()[:, 0]
        expected = nms(boxes[chosen], torch.arange(len(chosen), 0.0, -1), 0.3)
        assert chosen[keep[chosen]].tolist() == chosen[expected].sort().values.tolist()


def test_by_the_cuda_kernel(backend, schedule):
    boxes, offsets = boxes_of(600, 1), torch.tensor([0, 0, 280, 577])
    expected = reference.nms.nms_segments(boxes, offsets, 0.4)
    assert 50 < expected.sum() < 550
    with backend.ops(*schedule):
        keep = nms_segments(boxes.to(backend.device), offsets.to(backend.device), 0.4)
    assert torch.equal(keep.cpu(), expected)


def test_the_cuda_kernel_reads_nothing_out_of_bounds(backend):
    with backend.ops():
        keep = nms_segments(
            boxes_of(9, 0).to(backend.device), torch.tensor([-5, 400]).to(backend.device), 0.5
        )
    assert torch.equal(keep.cpu(), peers(boxes_of(9, 0), [0, 9], 0.5))


def test_opcheck():
    torch.library.opcheck(torch.ops.mrcnn_plugin.nms_segments, (boxes_of(9, 0), torch.tensor([0, 4, 9]), 0.5))


@pytest.mark.parametrize(
    ("boxes", "offsets", "error", "message"),
    [
        (
            torch.zeros(3, 5),
            torch.tensor([0, 3]),
            ValueError,
            r"boxes must have shape \(K, 4\), got \(3, 5\)",
        ),
        (torch.zeros(3, 4).double(), torch.tensor([0, 3]), TypeError, "boxes must be float32"),
        (torch.zeros(3, 4), torch.zeros(0).long(), ValueError, r"offsets must have shape \(S \+ 1,\)"),
        (torch.zeros(3, 4), torch.tensor([0.0, 3]), TypeError, "offsets must be int64"),
        (torch.zeros(3, 4), torch.tensor([0, 4]), RuntimeError, "offsets must rise from 0 to at most 3"),
        (torch.zeros(3, 4), torch.tensor([2, 1]), RuntimeError, "got 2 before 1"),
    ],
)
def test_errors(boxes, offsets, error, message):
    with pytest.raises(error, match=message):
        nms_segments(boxes, offsets, 0.5)
