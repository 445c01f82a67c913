# Before any test imports Detectron2: mrcnn_plugin applies what it needs on a current stack.
import mrcnn_plugin  # noqa: F401

# isort: split

import os

import hypothesis
import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks

# A busy machine is slow, which is no failure; CI draws the same examples each time.
hypothesis.settings.register_profile("project", deadline=None, derandomize=bool(os.getenv("CI")))
hypothesis.settings.load_profile("project")

pytest_plugins = ["helpers.run_fixtures", "helpers.cuda_backends"]


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


@pytest.fixture(scope="session")
def batched_inputs():
    return synthetic_inputs


@pytest.fixture
def event_storage():
    from detectron2.utils.events import EventStorage

    with EventStorage() as storage:
        yield storage
