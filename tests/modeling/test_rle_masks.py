"""RLEs as a field of Instances."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.structures import Instances

from mrcnn_plugin.modeling import RLEMasks

RLES = [{"size": [4, 5], "counts": bytes([48 + i])} for i in range(4)]


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        (torch.tensor([True, False, True, False]), [0, 2]),
        (torch.tensor([3, 1, 1]), [3, 1, 1]),
        (torch.tensor([], dtype=torch.int64), []),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
    ],
)
def test_index(item, kept):
    instances = Instances((4, 5), masks=RLEMasks(RLES), number=torch.arange(4))
    # Instances takes no negative step; the field itself does.
    selected = RLEMasks(RLES)[item]
    assert isinstance(selected, RLEMasks)
    assert selected == [RLES[index] for index in kept]
    if not (isinstance(item, slice) and item.step):
        assert instances[item].masks == selected
        assert instances[item].number.tolist() == kept


def test_one():
    masks = RLEMasks(RLES)
    assert masks[2] is RLES[2]
    assert masks[torch.tensor(1)] is RLES[1]
    assert masks[-1] is RLES[3]


def test_mask_of_another_length():
    with pytest.raises(IndexError, match="a mask of 3 entries indexes 4 RLEs"):
        RLEMasks(RLES)[torch.tensor([True, False, True])]


def test_instances_carry_them():
    instances = Instances((4, 5), masks=RLEMasks(RLES))
    assert instances.to("cpu").masks == RLES
    joined = Instances.cat([instances, instances[:1]])
    assert joined.masks == [*RLES, RLES[0]]
    assert pickle.loads(pickle.dumps(instances)).masks == RLES
