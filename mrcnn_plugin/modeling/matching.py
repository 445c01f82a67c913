"""Matching of boxes with ground truth, and sampling from them: Detectron2's results with few host syncs.

A host sync is whatever makes the host wait for the device: `nonzero`, an index by a mask, `item`. Here sizes
are known beforehand, or the counts of all images come to the host in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ciou_loss, diou_loss
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def match(matcher: Matcher, quality: Tensor) -> tuple[Tensor, Tensor]:
    """`matcher(quality)` with no host sync.

    Args:
        matcher: its thresholds, labels and whether it allows matches of low quality are used; a subclass,
            which may match otherwise, is called.
        quality: (G, K), such as the IoU of G ground-truth boxes and K boxes; no value is negative.

    Returns:
        int64 (K,), the ground truth that fits each box best (0 where G is 0), and int8 (K,), its label.
    """
    if type(matcher) is not Matcher or quality.numel() == 0:
        return matcher(quality)
    best, index = quality.max(dim=0)
    labels = torch.full_like(index, 1, dtype=torch.int8)
    for label, low, high in zip(matcher.labels, matcher.thresholds, matcher.thresholds[1:]):
        labels.masked_fill_((best >= low) & (best < high), label)
    if matcher.allow_low_quality_matches:
        # Faster R-CNN, section 3.1.2, (i): also the boxes, ties included, that fit some ground truth best.
        highest = quality.max(dim=1, keepdim=True).values
        labels.masked_fill_((quality == highest).any(dim=0), 1)
    return index, labels


def where_true(masks: Sequence[Tensor]) -> list[Positions]:
    """Positions of True in each of some (K_i,) bool tensors, whose counts come to the host in one copy."""
    ranks = [mask.cumsum(0) for mask in masks]
    last = [rank[-1:] if len(rank) else rank.new_zeros(1) for rank in ranks]
    counts = torch.cat(last).tolist() if last else []
    return [Positions(rank, count) for rank, count in zip(ranks, counts)]


class Positions:
    """Where a mask is True: like `mask.nonzero()`, but computed only for those that are asked for.

    Attributes:
        count: of True.
    """

    def __init__(self, rank: Tensor, count: int) -> None:
        """`rank` is the mask's running sum, int64 (K,)."""
        self._rank = rank
        self.count = int(count)

    def __getitem__(self, which: Tensor) -> Tensor:
        """int64 (S,) in [0, count) -> int64 (S,): the positions of these, counted from the first True."""
        return torch.searchsorted(self._rank, which + 1)

    def first(self, number: int) -> Tensor:
        """The first `number` positions, in order."""
        return self[torch.arange(number, device=self._rank.device)]

    def draw(self, number: int) -> Tensor:
        """`number` random ones, by the permutation that Detectron2's `subsample_labels` draws."""
        return self[torch.randperm(self.count, device=self._rank.device)[:number]]


def sample(
    labels: Sequence[Tensor], num_samples: int, positive_fraction: float, bg_label: int
) -> list[tuple[Tensor, Tensor]]:
    """Detectron2's `subsample_labels` of each image, the same samples from the same random numbers.

    Args:
        labels: one (K_i,) for each image; -1 is never sampled.
        num_samples: for each image, or as many as there are.
        positive_fraction: at most this share of them is positive.
        bg_label: the label of negatives; any other but -1 is positive.

    Returns:
        For each image the positions of the positive and of the negative samples, int64.
    """
    masks = [m for one in labels for m in ((one != -1) & (one != bg_label), one == bg_label)]
    found = where_true(masks)
    samples = []
    for positive, negative in zip(found[::2], found[1::2]):
        num_positive = min(positive.count, int(num_samples * positive_fraction))
        num_negative = min(negative.count, num_samples - num_positive)
        samples.append((positive.draw(num_positive), negative.draw(num_negative)))
    return samples


def box_deltas(transform: Box2BoxTransform, boxes: Tensor, targets: Tensor) -> Tensor:
    """`transform.get_deltas(boxes, targets)`, (K, 4) each, without its look at every box's width.

    Boxes without area give infinite deltas here, where Detectron2's function has an assertion.
    """
    if type(transform) is not Box2BoxTransform:
        return transform.get_deltas(boxes, targets)
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    x, y = boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height
    target_width, target_height = (targets[:, 2:] - targets[:, :2]).unbind(dim=1)
    target_x, target_y = targets[:, 0] + 0.5 * target_width, targets[:, 1] + 0.5 * target_height
    # R-CNN (arXiv 1311.2524), appendix C.
    wx, wy, ww, wh = transform.weights
    dx, dy = wx * (target_x - x) / width, wy * (target_y - y) / height
    dw, dh = ww * (target_width / width).log(), wh * (target_height / height).log()
    return torch.stack([dx, dy, dw, dh], dim=1)


def box_regression_loss(
    kind: str,
    transform: Box2BoxTransform,
    deltas: Tensor,
    boxes: Tensor,
    targets: Tensor,
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Loss of each box's predicted deltas, (K,); Detectron2's kinds, not summed.

    Args:
        kind: "smooth_l1", "giou", "diou" or "ciou".
        transform: what the deltas mean.
        deltas: (K, 4), predicted.
        boxes, targets: (K, 4) xyxy; the first, moved by the right deltas, are the second.
        smooth_l1_beta: where smooth L1 turns from square to linear; 0 is the L1 loss.
    """
    if kind == "smooth_l1":
        goal = box_deltas(transform, boxes, targets)
        return smooth_l1_loss(deltas, goal, smooth_l1_beta).sum(dim=1)
    if kind not in _IOU_LOSSES:
        raise ValueError(f"box_reg_loss_type must be smooth_l1 or one of {list(_IOU_LOSSES)}, got {kind!r}")
    return _IOU_LOSSES[kind](transform.apply_deltas(deltas, boxes), targets)


class SampledProposals(Instances):
    """Proposals of an image, of which the host knows that the positive ones come first, and how many."""

    def __init__(self, image_size: tuple[int, int], num_foreground: int, **fields) -> None:
        super().__init__(image_size, **fields)
        self._num_foreground = num_foreground

    @property
    def num_foreground(self) -> int:
        """How many are positive."""
        return self._num_foreground

    def foreground(self) -> Instances:
        """The positive ones."""
        return self[: self._num_foreground]


def select_foreground(proposals: list[Instances], num_classes: int) -> list[Instances]:
    """Those whose `gt_classes` are not the background, `num_classes`; no host sync if sampled here."""
    if all(isinstance(image, SampledProposals) for image in proposals):
        return [image.foreground() for image in proposals]
    return select_foreground_proposals(proposals, num_classes)[0]


def to_device(instances: Instances, device: torch.device) -> Instances:
    """`instances.to(device)` by copies for which the host does not wait."""
    moved = Instances(instances.image_size)
    for name, value in instances.get_fields().items():
        if type(value) is Boxes:
            # Its own `to` takes no more than the device.
            value = Boxes(value.tensor.to(device, non_blocking=True))
        elif isinstance(value, Tensor | Keypoints | BitMasks):
            value = value.to(device, non_blocking=True)
        elif hasattr(value, "to"):
            value = value.to(device)
        moved.set(name, value)
    return moved
