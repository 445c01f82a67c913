"""Mask losses: binary cross-entropy on the ground-truth class only (paper section 3), and the softmax one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import get_event_storage
from torch import Tensor

from mrcnn_plugin.ops import rasterize_polygons

from .mask_targets import mask_targets
from .scalars import put_scalars


def annotated(x: Tensor, instances: list[Instances]) -> tuple[Tensor, list[Instances]]:
    """Drops the RoIs, rows of x (K, ...), of images whose annotations have no masks at all."""
    kept = [image.has("gt_masks") for image in instances]
    if all(kept):
        return x, instances
    parts = [part for part, keep in zip(x.split([len(image) for image in instances]), kept) if keep]
    return torch.cat(parts) if parts else x[:0], [image for image, keep in zip(instances, kept) if keep]


def targets_of(instances: list[Instances], mask_size: int) -> Tensor:
    """Ground-truth masks within the proposal boxes: bool (K, M, M)."""
    masks, boxes = [image.gt_masks for image in instances], [image.proposal_boxes for image in instances]
    if all(type(one) is PolygonMasks for one in masks):
        # In one call: polygons of different images have nothing that tells them apart.
        polygons = [polygon for one in masks for polygon in one.polygons]
        return rasterize_polygons(polygons, Boxes.cat(boxes), mask_size)
    return torch.cat([mask_targets(*pair, mask_size) for pair in zip(masks, boxes)])


def sigmoid_mask_loss(
    logits: Tensor, instances: list[Instances], vis_period: int = 0, targets: Tensor | None = None
) -> Tensor:
    """L_mask of the paper: average binary cross-entropy over the M x M pixels of every RoI.

    Args:
        logits: (K, 1, M, M), of each RoI's ground-truth class alone.
        instances: foreground proposals with `proposal_boxes` and `gt_masks`, in the order of `logits`.
        vis_period: iterations between pictures of prediction and target in the event storage; 0 is never.
        targets: bool (K, M, M), where the caller has them already; else `targets_of(instances, M)`.

    Returns:
        Scalar; 0, still connected to the graph, where there is no RoI.
    """
    if len(logits) == 0:
        return logits.sum() * 0.0
    logits = logits[:, 0]
    if targets is None:
        targets = targets_of(instances, logits.shape[-1])
    log_metrics(logits > 0, targets)
    if vis_period > 0 and get_event_storage().iter % vis_period == 0:
        visualize(logits.sigmoid(), targets)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def softmax_mask_loss(logits: Tensor, instances: list[Instances]) -> Tensor:
    """Multinomial loss of the paper's Table 2b: per-pixel cross-entropy of classes and background.

    Args:
        logits: (K, num_classes + 1, M, M), the background last.
        instances: foreground proposals with `proposal_boxes`, `gt_classes` and `gt_masks`, as in `logits`.

    Returns:
        Scalar; 0, still connected to the graph, where there is no RoI.
    """
    if len(logits) == 0:
        return logits.sum() * 0.0
    targets = targets_of(instances, logits.shape[-1])
    background = logits.shape[1] - 1
    classes = torch.cat([image.gt_classes for image in instances])[:, None, None]
    labels = torch.where(targets, classes, background)
    log_metrics(logits.argmax(dim=1) == classes, targets)
    return F.cross_entropy(logits, labels)


@torch.no_grad()
def log_metrics(predicted: Tensor, targets: Tensor) -> None:
    """Puts Detectron2's three mask metrics in the event storage; both arguments are bool (K, M, M)."""
    wrong = predicted != targets
    number = targets.numel()

    def scalars(wrong: float, missed: float, positive: float) -> dict[str, float]:
        return {
            "mask_rcnn/accuracy": 1 - wrong / max(number, 1),
            "mask_rcnn/false_positive": (wrong - missed) / max(number - positive, 1),
            "mask_rcnn/false_negative": missed / max(positive, 1),
        }

    put_scalars([wrong.sum(), (wrong & targets).sum(), targets.sum()], scalars)


@torch.no_grad()
def visualize(probabilities: Tensor, targets: Tensor) -> None:
    """Puts one picture per RoI in the event storage: predicted probabilities beside the target."""
    storage = get_event_storage()
    pairs = torch.cat([probabilities.float(), targets.float()], dim=2).cpu()
    for i, pair in enumerate(pairs):
        storage.put_image(f"Left: mask prediction;   Right: mask GT ({i})", pair.expand(3, -1, -1))
