"""Copy-paste against values by hand, for polygons and bitmasks, and through a loader."""

from __future__ import annotations

import itertools

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from helpers.tiny_runs import TINY

from mrcnn_plugin.config import fit_to_dataset, load_config
from mrcnn_plugin.configs.common.data.augmentations import copy_paste
from mrcnn_plugin.data import CopyPasteMapper, seed_generators
from mrcnn_plugin.data.copy_paste import paste, random_subset


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def sample(boxes, form, value, size=(8, 8), keypoints=None):
    """Rectangles in an image of one value; the k-th is of class k + value."""
    instances = Instances(size, gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))
    instances.gt_classes = torch.arange(len(boxes)) + value
    masks = PolygonMasks([[rectangle(*box)] for box in boxes])
    instances.gt_masks = masks if form == "polygon" else BitMasks.from_polygon_masks(masks, *size)
    if keypoints is not None:
        instances.gt_keypoints = Keypoints(torch.tensor(keypoints, dtype=torch.float32))
    return {"image": torch.full((3, *size), value), "instances": instances, "file_name": f"{value}.png"}


def bitmasks(sample):
    masks = sample["instances"].gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *sample["instances"].image_size)
    return masks.tensor.bool()


@pytest.fixture(params=["polygon", "bitmask"])
def form(request):
    return request.param


def test_by_hand(form):
    # The pasted square covers the right half of the first object, all of the second, none of the third.
    target = sample([[0, 0, 4, 4], [3, 1, 4, 3], [6, 6, 8, 8]], form, value=10)
    source = sample([[2, 0, 6, 4], [0, 0, 8, 8]], form, value=20)
    result = paste(target, source, torch.tensor([0]))
    instances = result["instances"]
    assert instances.gt_classes.tolist() == [10, 12, 20]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 2, 4], [6, 6, 8, 8], [2, 0, 6, 4]]
    expected = torch.zeros(3, 8, 8, dtype=torch.bool)
    expected[0, 0:4, 0:2] = True
    expected[1, 6:8, 6:8] = True
    expected[2, 0:4, 2:6] = True
    assert bitmasks(result).equal(expected)
    image = torch.full((8, 8), 10)
    image[0:4, 2:6] = 20
    assert result["image"].equal(image.expand(3, 8, 8))
    assert result["file_name"] == "10.png"
    assert type(instances.gt_masks) is type(target["instances"].gt_masks)
    # What was given is as it was.
    assert (target["image"] == 10).all()
    assert len(target["instances"]) == 3


def test_a_hole_in_what_is_beneath(form):
    target = sample([[0, 0, 8, 8]], form, value=1)
    result = paste(target, sample([[2, 3, 5, 6]], form, value=2), torch.tensor([0]))
    beneath, pasted = bitmasks(result)
    assert pasted.sum() == 9
    assert beneath.equal(~pasted)
    assert result["instances"].gt_boxes.tensor.tolist() == [[0, 0, 8, 8], [2, 3, 5, 6]]


def test_a_larger_source_is_cut_and_a_smaller_one_lies_in_the_corner(form):
    target = sample([], form, value=1, size=(6, 8))
    large = sample([[4, 4, 12, 12], [9, 9, 12, 12]], form, value=2, size=(12, 12))
    result = paste(target, large, torch.tensor([0, 1]))
    assert result["image"].shape == (3, 6, 8)
    assert result["instances"].image_size == (6, 8)
    assert result["instances"].gt_boxes.tensor.tolist() == [[4, 4, 8, 6]]
    assert bitmasks(result).sum() == 8
    small = paste(target, sample([[0, 0, 3, 3]], form, value=3, size=(4, 4)), torch.tensor([0]))
    assert (small["image"][0] == 3).sum() == 9


def test_an_object_of_which_hardly_anything_is_left_goes(form):
    target = sample([[0, 0, 8, 8]], form, value=1)
    result = paste(target, sample([[0, 0, 8, 7.7]], "polygon", value=2), torch.tensor([0]))
    assert result["instances"].gt_classes.tolist() == [2]


def test_nothing_to_paste(form):
    target = sample([[0, 0, 4, 4]], form, value=1)
    for source in (sample([[0, 0, 4, 4]], form, value=2), sample([], form, value=2)):
        result = paste(target, source, torch.zeros(0, dtype=torch.long))
        assert result["image"].equal(target["image"])
        assert len(result["instances"]) == 1


def test_keypoints_beneath_are_labelled_as_hidden():
    points = [[[1, 1, 2], [3, 1, 2], [3.5, 1, 1], [0, 0, 0]]]
    target = sample([[0, 0, 4, 4]], "polygon", 1, keypoints=points)
    source = sample([[2, 0, 6, 4]], "polygon", 2, keypoints=[[[5, 1, 2]] * 4])
    result = paste(target, source, torch.tensor([0]))
    assert result["instances"].gt_keypoints.tensor[0, :, 2].tolist() == [2, 1, 1, 0]
    assert result["instances"].gt_keypoints.tensor[1, :, 2].tolist() == [2] * 4
    assert target["instances"].gt_keypoints.tensor[0, 1, 2] == 2


def test_semantic_labels_are_pasted_too():
    target = {**sample([[0, 0, 4, 4]], "polygon", 1), "sem_seg": torch.zeros(8, 8, dtype=torch.long)}
    source = {**sample([[2, 0, 6, 4]], "polygon", 2), "sem_seg": torch.full((8, 8), 7)}
    result = paste(target, source, torch.tensor([0]))
    assert result["sem_seg"].eq(7).sum() == 16
    assert result["sem_seg"][0, 2] == 7


def test_subsets_hold_one_to_all():
    seed_generators(0)
    sizes = [len(random_subset(3)) for _ in range(300)]
    assert {*sizes} == {1, 2, 3}
    assert all(70 < sizes.count(size) < 130 for size in (1, 2, 3))
    assert len(random_subset(0)) == 0


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_config_with_copy_paste_feeds_more_objects(shapes, mask_format):
    config = load_config(str(TINY), [f"dataloader.train.dataset.names={shapes['train']}"])
    fit_to_dataset(config)
    train = config.raw.dataloader.train
    seed_generators(0)
    plain = [len(s["instances"]) for b in itertools.islice(instantiate(train), 6) for s in b]
    copy_paste(train.mapper)
    train.mapper.instance_mask_format = mask_format
    loader = instantiate(train)
    samples = [s for batch in itertools.islice(loader, 6) for s in batch]
    assert sum(len(s["instances"]) for s in samples) > sum(plain)
    for one in samples:
        masks = bitmasks(one)
        assert masks.flatten(1).any(1).all()
        assert one["image"].shape[-2:] == masks.shape[-2:] == (64, 64)
        # What is seen of an object lies in its box.
        seen, boxes = BitMasks(masks).get_bounding_boxes().tensor, one["instances"].gt_boxes.tensor
        assert (seen[:, :2] >= boxes[:, :2] - 1).all()
        assert (seen[:, 2:] <= boxes[:, 2:] + 1).all()


def test_it_needs_masks():
    with pytest.raises(ValueError, match="use_instance_mask"):
        CopyPasteMapper(True, dataset=[], augmentations=[], image_format="BGR")
