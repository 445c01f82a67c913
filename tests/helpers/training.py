"""One training step of a detector on synthetic images, and what it leaves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn


class TrainStep(NamedTuple):
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]  # of the parameters that have one
    logged: dict[str, float]  # scalars of the event storage


def train_step(model: nn.Module, inputs: list[dict]) -> TrainStep:
    """Forward and backward in training mode; every call draws the same RoIs and points."""
    model.train().zero_grad()
    torch.manual_seed(7)
    with EventStorage() as storage:
        losses = model(inputs)
        logged = {name: value for name, (value, _) in storage.latest().items()}
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return TrainStep(losses, gradients, logged)


def synthetic_inputs(sizes, num_instances=3, num_classes=80, masks=True, keypoints=False, num_keypoints=17):
    """Detectron2's batched_inputs: noise images of `sizes` (h, w); random boxes, diamonds, keypoints."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for height, width in sizes:
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        corner = torch.rand(num_instances, 2, generator=generator) * 0.4
        extent = torch.rand(num_instances, 2, generator=generator) * 0.3 + 0.25
        boxes = torch.cat([corner, corner + extent], dim=1) * torch.tensor([width, height] * 2)
        instances = Instances((height, width), gt_boxes=Boxes(boxes))
        instances.gt_classes = torch.randint(0, num_classes, (num_instances,), generator=generator)
        if masks:
            instances.gt_masks = PolygonMasks([[_diamond(box)] for box in boxes.tolist()])
        if keypoints:
            place = torch.rand(num_instances, num_keypoints, 2, generator=generator)
            xy = boxes[:, None, :2] + place * (boxes[:, 2:] - boxes[:, :2])[:, None]
            visibility = torch.randint(0, 3, (num_instances, num_keypoints, 1), generator=generator)
            instances.gt_keypoints = Keypoints(torch.cat([xy, visibility], dim=2))
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


def _diamond(box):
    x1, y1, x2, y2 = box
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return [x, y1, x2, y, x, y2, x1, y]
