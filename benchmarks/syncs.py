"""Where the host waits for the device, in a training step and in inference: ours and Detectron2's, counted.

    python benchmarks/syncs.py [--config NAME] [--images N] [--size H W] [--json FILE]

Nothing is timed and no device is needed: tensors are on the CPU and pretend to be on a device, which tells
every place where CUDA's host would wait and every operation that CUDA would launch (`pretend_device.py`). A
wait is an `item`, a `nonzero`, an index by booleans, a copy that is not asked to be asynchronous, and such;
an operation is at least one kernel. A training step is Detectron2's SimpleTrainer or ours, from the batch on
the host to the optimizer; inference ends with results at the image's size, on the device.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from model_zoo import detectron2_model
from omegaconf import DictConfig
from pretend_device import Record, install, recording
from tabulate import tabulate
from torch import nn

from mrcnn_plugin import model_zoo
from mrcnn_plugin.train.trainer import Trainer

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
LIBRARIES = ("Detectron2", "ours")
TARGETS = {"training": 6, "inference": 8}


def batch(images: int, size: tuple[int, int], num_classes: int, num_keypoints: int) -> list[dict]:
    """Noise images with six polygons (triangles) each, and keypoints in their boxes if the model has them."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    inputs = []
    for _ in range(images):
        corner = torch.rand(6, 2, generator=generator) * 0.5
        boxes = torch.cat([corner, corner + 0.2 + 0.3 * torch.rand(6, 2, generator=generator)], dim=1)
        boxes *= torch.tensor([width, height, width, height])
        instances = Instances(size, gt_boxes=Boxes(boxes))
        instances.gt_classes = torch.randint(num_classes, (6,), generator=generator)
        instances.gt_masks = PolygonMasks([[[x1, y1, x2, y1, x2, y2]] for x1, y1, x2, y2 in boxes.tolist()])
        if num_keypoints:
            xy = boxes[:, None, :2] + 0.5 * (boxes[:, None, 2:] - boxes[:, None, :2])
            points = torch.cat([xy, torch.full((6, 1, 1), 2.0)], dim=2)
            instances.gt_keypoints = Keypoints(points.expand(-1, num_keypoints, -1).contiguous())
        pixels = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        inputs.append({"image": pixels, "height": height, "width": width, "instances": instances})
    return inputs


def models(config: DictConfig) -> dict[str, nn.Module]:
    """Both libraries' models, with the same weights, on the pretended device."""
    device = install()
    torch.manual_seed(0)
    ours = instantiate(config)
    theirs = instantiate(detectron2_model(config))
    theirs.load_state_dict(ours.state_dict())
    return {"Detectron2": theirs.to(device), "ours": ours.to(device)}


def training_step(model: nn.Module, inputs: list[dict], trainer: type[SimpleTrainer]) -> Callable[[], None]:
    """A step of SGD, with its metrics."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    loop = trainer(model, [inputs] * 2, torch.optim.SGD(parameters, lr=1e-5, momentum=0.9))

    def step() -> None:
        torch.manual_seed(0)
        with EventStorage():
            loop.run_step()

    return step


def inference_step(model: nn.Module, inputs: list[dict]) -> Callable[[], None]:
    model.eval()
    images = [{key: value for key, value in image.items() if key != "instances"} for image in inputs]

    def step() -> None:
        with torch.no_grad():
            model(images)

    return step


def records(config: DictConfig, images: int, size: tuple[int, int]) -> dict[str, dict[str, Record]]:
    """Phase ("training", "inference") -> library -> the second step, which finds all state made."""
    heads = config.roi_heads
    keypoints = heads.keypoint_head.num_keypoints if "keypoint_head" in heads else 0
    inputs = batch(images, size, heads.num_classes, keypoints)
    # Untrained scores are low: as many detections as the model can give.
    heads.box_predictor.test_score_thresh = 0.0
    built = models(config)
    trainers = {"Detectron2": SimpleTrainer, "ours": Trainer}
    found: dict[str, dict[str, Record]] = {"training": {}, "inference": {}}
    for library, model in built.items():
        step = training_step(model, inputs, trainers[library])
        found["training"][library] = second(step)
        found["inference"][library] = second(inference_step(model, inputs[:1]))
    return found


def second(step: Callable[[], None]) -> Record:
    for _ in range(2):
        with recording() as record:
            step()
    return record


def summary(found: dict[str, dict[str, Record]]) -> str:
    rows = []
    for phase, by_library in found.items():
        waits, launches = (
            [f"{getattr(by_library[library], what).total()}" for library in LIBRARIES]
            for what in ("waits", "launches")
        )
        rows.append([phase, *waits, f"{TARGETS[phase]}", *launches])
    header = ["", "waits, Detectron2", "ours", "target", "operations launched, Detectron2", "ours"]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def places(record: Record) -> str:
    rows = [[count, what, f"`{where}`"] for (what, where), count in record.waits.most_common()]
    return tabulate(rows, ["times", "what", "where"], tablefmt="pipe")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=CONFIG, help=f"of the model zoo (default: {CONFIG})")
    parser.add_argument("--images", type=int, default=2, help="of a training step; inference takes one")
    parser.add_argument("--size", type=int, nargs=2, default=[160, 224], help="height and width, pixels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = records(model_zoo.get_config(args.config).model, args.images, tuple(args.size))
    print(f"{args.config}, {args.images} images in training, 1 in inference, torch {torch.__version__}\n")
    print(summary(found))
    for phase, by_library in found.items():
        for library, record in by_library.items():
            print(f"\n{phase}, {library}:\n\n{places(record)}")
    if args.json:
        counts = {
            phase: {library: [one.waits.total(), one.launches.total()] for library, one in by_library.items()}
            for phase, by_library in found.items()
        }
        args.json.write_text(json.dumps(counts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
