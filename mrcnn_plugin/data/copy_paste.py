"""Simple copy-paste (Ghiasi et al., arXiv 2012.07177): objects of another image are pasted onto an image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data.common import DatasetFromList
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from .convert.masks import segment_mask

#: An object of which less than this share is still seen is left out, as one that is wholly covered.
LEAST_VISIBLE = 0.05


class CopyPasteMapper(DatasetMapper):
    """A `DatasetMapper` that pastes a random part of the objects of a second, independently augmented image.

    As the paper does it: both images are augmented first (large-scale jitter and mirroring are its choice),
    the masks are pasted as they are, without blending, and what they cover is taken from the masks and boxes
    beneath. Keypoints beneath them are labelled as not visible. Masks stay polygons or bitmasks.
    """

    @configurable
    def __init__(
        self, is_train: bool, *, dataset: Sequence[dict], copy_paste: float | None = 1.0, **kwargs: Any
    ) -> None:
        """
        Args:
            dataset: the dataset dicts to paste from, such as the loader's own.
            copy_paste: share of the images that are pasted onto; None or 0 for none.
            is_train, kwargs: as DatasetMapper, with `use_instance_mask`.
        """
        super().__init__(is_train, **kwargs)
        if not self.use_instance_mask:
            raise ValueError("copy-paste needs the mapper's use_instance_mask=True")
        self.copy_paste = copy_paste or 0.0
        # Serialised: workers share it.
        self._sources = DatasetFromList(list(dataset), copy=False)

    def __call__(self, dataset_dict: dict) -> dict:
        target = super().__call__(dataset_dict)
        if not self.is_train or "instances" not in target or np.random.rand() >= self.copy_paste:
            return target
        source = super().__call__(self._sources[int(np.random.randint(len(self._sources)))])
        return paste(target, source, random_subset(len(source["instances"])))


def random_subset(number: int) -> Tensor:
    """Indices of at least one of `number` objects, every number of them being equally likely."""
    chosen = np.random.permutation(number)[: np.random.randint(1, number + 1) if number else 0]
    return torch.as_tensor(np.sort(chosen), dtype=torch.long)


def paste(target: dict, source: dict, chosen: Tensor) -> dict:
    """Pastes the chosen objects of a mapped sample onto another, the upper left corners of both aligned.

    Args:
        target, source: with "image" (3, H, W), of sizes that may differ, "instances" with `gt_boxes`,
            `gt_classes` and, where there are any, `gt_masks`, and "sem_seg" (H, W) if both have it.
        chosen: int64 indices of `source`'s instances.

    Returns:
        A sample of the target's size; neither of the given ones is changed.
    """
    result = copy.copy(target)
    height, width = target["image"].shape[-2:]
    if not len(chosen):
        return result
    pasted, masks = _within(source["instances"][chosen], height, width)
    if not len(pasted):
        return result
    covered = masks.any(dim=0)
    rows, columns = (min(a, b) for a, b in zip((height, width), source["image"].shape[-2:]))
    result["image"] = _over(target["image"], source["image"], covered, rows, columns)
    if "sem_seg" in target and "sem_seg" in source:
        result["sem_seg"] = _over(target["sem_seg"], source["sem_seg"], covered, rows, columns)
    beneath = _uncover(target["instances"], covered)
    result["instances"] = Instances.cat([beneath, pasted]) if len(beneath) else pasted
    return result


def _over(target: Tensor, source: Tensor, covered: Tensor, rows: int, columns: int) -> Tensor:
    combined = target.clone()
    part = covered[:rows, :columns]
    combined[..., :rows, :columns] = torch.where(
        part, source[..., :rows, :columns], target[..., :rows, :columns]
    )
    return combined


def _within(instances: Instances, height: int, width: int) -> tuple[Instances, Tensor]:
    """Instances on a canvas of another size, and their masks on it, (K, height, width) bool.

    Those without a pixel on it are left out; those that it cuts have masks and boxes of what is left.
    """
    whole = _bitmasks(instances)
    rows, columns = min(height, whole.shape[1]), min(width, whole.shape[2])
    masks = torch.zeros(len(instances), height, width, dtype=torch.bool)
    masks[:, :rows, :columns] = whole[:, :rows, :columns]
    moved = Instances((height, width), **instances.get_fields())
    cut = masks.flatten(1).sum(1) < whole.flatten(1).sum(1)
    moved = _with_masks(moved, masks, cut)
    seen = masks.flatten(1).any(1)
    return moved[seen], masks[seen]


def _uncover(instances: Instances, covered: Tensor) -> Instances:
    """Instances without what is covered, (H, W) bool; those that are hardly seen any more are left out."""
    if not len(instances):
        return instances
    whole = _bitmasks(instances)
    left = whole & ~covered
    areas, before = left.flatten(1).sum(1), whole.flatten(1).sum(1)
    uncovered = _with_masks(instances, left, areas < before)
    if uncovered.has("gt_keypoints"):
        uncovered.gt_keypoints = _hide(uncovered.gt_keypoints, covered)
    return uncovered[areas >= (LEAST_VISIBLE * before).clamp(min=1)]


def _bitmasks(instances: Instances) -> Tensor:
    """Masks of either form as (K, H, W) bool."""
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    return masks.tensor.bool()


def _with_masks(instances: Instances, masks: Tensor, changed: Tensor) -> Instances:
    """A copy whose changed masks are these, in the form of the others, with the boxes of these masks."""
    if not changed.any():
        return Instances(instances.image_size, **instances.get_fields())
    fields = dict(instances.get_fields())
    boxes = instances.gt_boxes.tensor.clone()
    boxes[changed] = BitMasks(masks[changed]).get_bounding_boxes().tensor.to(boxes)
    fields["gt_boxes"] = Boxes(boxes)
    if isinstance(instances.gt_masks, PolygonMasks):
        polygons = list(instances.gt_masks.polygons)
        for index in changed.nonzero()[:, 0].tolist():
            # None where nothing is left of it.
            traced = segment_mask(masks[index].numpy(), "polygon")
            polygons[index] = [np.asarray(p, float) for p in traced["segmentation"]] if traced else []
        fields["gt_masks"] = PolygonMasks(polygons)
    else:
        fields["gt_masks"] = BitMasks(masks)
    return Instances(instances.image_size, **fields)


def _hide(keypoints: Any, covered: Tensor) -> Any:
    """Keypoints under what is covered become labelled but not visible (COCO's 2 becomes 1)."""
    hidden = copy.copy(keypoints)
    hidden.tensor = keypoints.tensor.clone()
    x, y, visibility = hidden.tensor.unbind(dim=2)
    height, width = covered.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    beneath = covered[y.long().clamp(0, height - 1), x.long().clamp(0, width - 1)] & inside
    hidden.tensor[..., 2] = torch.where(beneath & (visibility == 2), 1.0, visibility)
    return hidden
