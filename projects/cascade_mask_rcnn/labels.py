"""Training labels of the boxes that one stage of a cascade hands to the next."""

from __future__ import annotations

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou


@torch.no_grad()
def label_proposals(
    proposals: Instances, targets: Instances, matcher: Matcher, num_classes: int
) -> Instances:
    """Labels every box of an image by the ground truth that it overlaps most (arXiv 1906.09756).

    None is dropped or sampled: refined boxes are positive often enough even at a higher IoU.

    Args:
        proposals: K boxes `proposal_boxes`, xyxy in pixels of the network's input.
        targets: G instances with `gt_boxes` and int64 `gt_classes`; G may be 0.
        matcher: says from which IoU on a box is positive: at 0.5, 0.6, 0.7 in the three stages.
        num_classes: also the label of the background.

    Returns:
        `proposals`, with int64 `gt_classes` (K,) in [0, num_classes], `gt_boxes` (K, 4) and int64
        `gt_indices` (K,), the instance that box and class are of; of background boxes
        nothing but the class has a meaning.
    """
    matched, positive = matcher(pairwise_iou(targets.gt_boxes, proposals.proposal_boxes))
    background = torch.full_like(matched, num_classes)
    if len(targets) == 0:
        proposals.gt_classes = background
        proposals.gt_boxes = Boxes(proposals.proposal_boxes.tensor.clone())
    else:
        proposals.gt_classes = torch.where(positive == 1, targets.gt_classes[matched], background)
        proposals.gt_boxes = targets.gt_boxes[matched]
    proposals.gt_indices = matched
    return proposals


def with_gt_masks(proposals: Instances, targets: Instances) -> Instances:
    """Gives the positive ones of an image's labelled proposals the masks that they are to predict.

    Args:
        proposals: positives of `label_proposals`, with `gt_indices` (K,).
        targets: the instances that the indices refer to; without `gt_masks` the proposals stay as they are.

    Returns:
        `proposals`, with `gt_masks` of K masks where there are any. Masks are as large as an image, so they
        are looked up for positives alone.
    """
    if len(proposals) and targets.has("gt_masks") and not proposals.has("gt_masks"):
        proposals.gt_masks = targets.gt_masks[proposals.gt_indices]
    return proposals
