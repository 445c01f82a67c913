"""What comes after the network, ours against Detectron2 + pycocotools, in one run.

    python benchmarks/postprocess.py [--device cpu|cuda] [--section NAME ...] [--repeats N] [--json FILE]

Both sides get the same fresh inputs in each repetition, one after the other, in alternating order; times are
medians after warm-up. Results are compared in the same run.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import process_memory
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import PolygonMasks
from detectron2.structures import heatmaps_to_keypoints as detectron2_keypoints
from pycocotools import mask as coco_mask
from tabulate import tabulate
from torch import Tensor

from mrcnn_plugin import ops

WARM_UP = 3


@dataclass
class Row:
    """One line of the table: medians in milliseconds, and what the comparison of results said."""

    section: str
    workload: str
    ours_ms: float
    peer_ms: float
    check: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.peer_ms / self.ours_ms


@dataclass
class Options:
    device: str
    repeats: int


def compare(
    options: Options,
    make_inputs: Callable[[int], tuple],
    ours: Callable[..., Any],
    peer: Callable[..., Any],
    check: Callable[[Any, Any], str],
) -> tuple[float, float, str]:
    """Median milliseconds of ours and of the peer, interleaved; `check` of the last pair of results.

    `make_inputs(seed)` makes the inputs of one repetition; `check` raises where the results disagree.
    """
    times: dict[Callable, list[float]] = {ours: [], peer: []}
    for repeat in range(WARM_UP + options.repeats):
        inputs = make_inputs(repeat)
        results = {}
        for call in (ours, peer) if repeat % 2 else (peer, ours):
            results[call], seconds = timed(options, call, inputs)
            if repeat >= WARM_UP:
                times[call].append(seconds)
        verdict = check(results[ours], results[peer])
    return statistics.median(times[ours]) * 1e3, statistics.median(times[peer]) * 1e3, verdict


def timed(options: Options, call: Callable[..., Any], inputs: tuple) -> tuple[Any, float]:
    synchronize(options)
    start = time.perf_counter()
    result = call(*inputs)
    synchronize(options)
    return result, time.perf_counter() - start


def synchronize(options: Options) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


# Masks: 100 detections on COCO's usual test size. Box areas are log-uniform from 16x16 to 40% of the image.

IMAGE_SHAPE = (800, 1333)
NUM_INSTANCES = 100


def blob_masks(n: int, generator: torch.Generator, size: int = 28) -> Tensor:
    """(n, size, size) smooth probabilities, high in the middle, as a trained head gives."""
    noise = torch.randn(n, 1, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")[:, 0]
    axis = torch.linspace(-1, 1, size)
    return torch.sigmoid(4 * (0.5 * smooth + 1.2 - 2 * (axis[:, None] ** 2 + axis**2)))


def detection_boxes(n: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(n, 4) xyxy inside the image."""
    height, width = shape
    low, high = np.log(256), np.log(0.4 * height * width)
    area = torch.exp(torch.rand(n, generator=generator) * (high - low) + low)
    aspect = torch.exp(torch.randn(n, generator=generator) * 0.5)
    w, h = (area * aspect).sqrt().clamp(max=width), (area / aspect).sqrt().clamp(max=height)
    x = torch.rand(n, generator=generator) * (width - w)
    y = torch.rand(n, generator=generator) * (height - h)
    return torch.stack([x, y, x + w, y + h], dim=1)


def mask_inputs(options: Options, kind: str) -> Callable[[int], tuple[Tensor, Tensor]]:
    def make(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        if kind == "blobs":
            masks = blob_masks(NUM_INSTANCES, generator)
        else:
            masks = torch.rand(NUM_INSTANCES, 28, 28, generator=generator)
        boxes = detection_boxes(NUM_INSTANCES, IMAGE_SHAPE, generator)
        return masks.to(options.device), boxes.to(options.device)

    return make


def coco_encode(pasted: Tensor) -> list[dict]:
    """Detectron2's loop (instances_to_coco_json)."""
    return [
        coco_mask.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0]
        for mask in pasted.cpu().numpy()
    ]


def same_pixels(ours: Tensor, theirs: Tensor) -> str:
    different = int((ours != theirs).sum())
    if different > 1e-5 * ours.numel():
        raise AssertionError(f"{different} of {ours.numel()} pixels differ")
    return f"{different} of {ours.numel():.1e} pixels differ"


def same_codes(ours: list[dict], theirs: list[dict]) -> str:
    """Byte-equal but for masks with a pixel whose value ties with the threshold (none where FMA is used)."""
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    for a, b in different:
        if coco_mask.area(coco_mask.merge([a, b])) - coco_mask.area(coco_mask.merge([a, b], True)) > 10:
            raise AssertionError("masks differ by more than 10 pixels")
    return f"{len(different)} of {len(ours)} codes differ"


def paste_section(options: Options) -> list[Row]:
    rows = []
    for kind in ("blobs", "noise"):
        result = compare(
            options,
            mask_inputs(options, kind),
            lambda masks, boxes: ops.paste_masks(masks, boxes, IMAGE_SHAPE),
            lambda masks, boxes: paste_masks_in_image(masks, boxes, IMAGE_SHAPE),
            same_pixels,
        )
        rows.append(Row("paste", f"100 masks, 800x1333, {kind}", *result))
    return rows


def encode_section(options: Options) -> list[Row]:
    rows = []
    for kind in ("blobs", "noise"):
        result = compare(
            options,
            mask_inputs(options, kind),
            lambda masks, boxes: ops.encode_masks(masks, boxes, IMAGE_SHAPE),
            lambda masks, boxes: coco_encode(paste_masks_in_image(masks, boxes, IMAGE_SHAPE)),
            same_codes,
        )
        rows.append(Row("encode", f"paste + RLE of 100 masks, 800x1333, {kind}", *result))
    return rows


MEMORY_SHAPE, MEMORY_INSTANCES = (8000, 4000), 300


def memory_section(options: Options) -> list[Row]:
    """Peak memory beyond the inputs', each side in a process of its own; Detectron2 holds 9.6 GB here."""
    rows = []
    for kind in ("blobs", "noise"):
        command = [sys.executable, __file__, "--device", options.device, "--memory-child", kind]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures = json.loads(answer.splitlines()[-1])
        bitmasks_mb = MEMORY_INSTANCES * MEMORY_SHAPE[0] * MEMORY_SHAPE[1] / 1e6
        verdict = f"{figures['extra_mb']:.0f} MB extra; bitmasks alone take {bitmasks_mb:.0f} MB"
        workload = f"paste + RLE of 300 masks, 8000x4000, {kind}"
        rows.append(Row("memory", workload, figures["ms"], float("nan"), verdict, figures))
    return rows


def memory_child(options: Options, kind: str) -> None:
    """Prints the time and peak extra memory of encoding, in JSON."""
    generator = torch.Generator().manual_seed(0)
    boxes = detection_boxes(MEMORY_INSTANCES, MEMORY_SHAPE, generator).to(options.device)
    masks = torch.rand(MEMORY_INSTANCES, 28, 28, generator=generator)
    masks = (blob_masks(MEMORY_INSTANCES, generator) if kind == "blobs" else masks).to(options.device)
    ops.encode_masks(masks[:2], boxes[:2], (8, 8))
    before = reset_peak_mb(options)
    result, seconds = timed(options, lambda: ops.encode_masks(masks, boxes, MEMORY_SHAPE), ())
    figures = {"extra_mb": peak_mb(options) - before, "ms": seconds * 1e3}
    figures["code_mb"] = sum(len(rle["counts"]) for rle in result) / 1e6
    print(json.dumps(figures))


def reset_peak_mb(options: Options) -> float:
    """Starts a new peak and returns the memory held now."""
    process_memory.start_peak()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return peak_mb(options)


def peak_mb(options: Options) -> float:
    """Peak resident memory of the host plus, on CUDA, peak memory allocated on the device."""
    host = process_memory.peak() / 1e6
    return host + (torch.cuda.max_memory_allocated() / 1e6 if options.device == "cuda" else 0)


# Keypoints: 100 people on COCO's usual test size, 17 heatmaps of 56x56 each.


def person_boxes(n: int, generator: torch.Generator) -> Tensor:
    """(n, 4) xyxy, 60 to 460 pixels high, width 0.3 to 0.7 of that."""
    height = torch.rand(n, generator=generator) * 400 + 60
    width = height * (0.3 + 0.4 * torch.rand(n, generator=generator))
    x, y = torch.rand(2, n, generator=generator) * 300
    return torch.stack([x, y, x + width, y + height], dim=1)


def keypoint_inputs(options: Options, kind: str) -> Callable[[int], tuple[Tensor, Tensor]]:
    def make(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        maps = torch.randn(NUM_INSTANCES, 17, 56, 56, generator=generator)
        if kind == "peaks":
            centre = torch.rand(NUM_INSTANCES, 17, 2, generator=generator) * 56
            y, x = (torch.arange(56) - centre[..., i, None] for i in range(2))
            maps = 8 * torch.exp(-(y[..., None] ** 2 + x[..., None, :] ** 2) / 12.5) - 3 + 0.3 * maps
        return maps.to(options.device), person_boxes(NUM_INSTANCES, generator).to(options.device)

    return make


def same_keypoints(ours: Tensor, theirs: Tensor) -> str:
    """Within 1e-3 px and 1e-4, but for maps with two pixels as high within rounding."""
    torch.testing.assert_close(ours[..., 2:], theirs[..., 2:], atol=1e-4, rtol=1e-4)
    ties = int(((ours - theirs)[..., :2].abs() > 1e-3).any(dim=2).sum())
    if ties > 1e-2 * ours[..., 0].numel():
        raise AssertionError(f"{ties} of {ours[..., 0].numel()} keypoints are elsewhere")
    return f"{ties} of {ours[..., 0].numel()} keypoints tie and differ"


def keypoints_section(options: Options) -> list[Row]:
    rows = []
    for kind in ("peaks", "noise"):
        result = compare(
            options,
            keypoint_inputs(options, kind),
            ops.heatmaps_to_keypoints,
            detectron2_keypoints,
            same_keypoints,
        )
        rows.append(Row("keypoints", f"100 x 17 heatmaps of 56x56, {kind}", *result))
    return rows


# Mask targets: 512 RoIs around ground truth, its boxes jittered by up to a fifth of their size.

NUM_ROIS, TARGET_SIZE = 512, 28


def coco_polygons() -> list[list[np.ndarray]]:
    """Polygons of the COCO 2017 instances in $DETECTRON2_DATASETS, as large as on images of height 800."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco", "annotations")
    instances = []
    for path in sorted(folder.glob("instances_*2017.json")):
        content = json.loads(path.read_text())
        scale = {image["id"]: 800 / image["height"] for image in content["images"]}
        instances += [
            [np.array(polygon) * scale[annotation["image_id"]] for polygon in annotation["segmentation"]]
            for annotation in content["annotations"]
            if not annotation["iscrowd"]
        ]
    if not instances:
        raise SystemExit(
            f"no instances_*2017.json in {folder}: set DETECTRON2_DATASETS to the folder of coco/"
        )
    return instances


def target_inputs(options: Options) -> Callable[[int], tuple[PolygonMasks, Tensor]]:
    everything = PolygonMasks(coco_polygons())

    def make(seed: int) -> tuple[PolygonMasks, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        masks = everything[torch.randint(len(everything), (NUM_ROIS,), generator=generator)]
        boxes = masks.get_bounding_boxes().tensor
        size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        jitter = (torch.rand(NUM_ROIS, 4, generator=generator) - 0.5) * 0.4
        return masks, (boxes + jitter * size).to(options.device)

    return make


def same_targets(ours: Tensor, theirs: Tensor) -> str:
    if not torch.equal(ours, theirs):
        raise AssertionError(f"{int((ours != theirs).sum())} cells differ")
    return "equal in every cell"


def rasterize_section(options: Options) -> list[Row]:
    make = target_inputs(options)
    result = compare(
        options,
        make,
        lambda masks, boxes: ops.rasterize_polygons(masks.polygons, boxes, TARGET_SIZE),
        lambda masks, boxes: masks.crop_and_resize(boxes, TARGET_SIZE),
        same_targets,
    )
    masks, boxes = make(0)
    packed = ops.pack_polygons(masks.polygons)
    seconds = [
        timed(options, lambda: ops.rasterize_polygons(packed, boxes, TARGET_SIZE), ())[1]
        for _ in range(WARM_UP + options.repeats)
    ]
    extra = {"packed_before_ms": statistics.median(seconds[WARM_UP:]) * 1e3}
    verdict = f"{result[2]}; {extra['packed_before_ms']:.2f} ms if packed before"
    return [Row("rasterize", "512 RoIs of COCO polygons to 28x28", *result[:2], verdict, extra)]


SECTIONS: dict[str, Callable[[Options], list[Row]]] = {
    "paste": paste_section,
    "encode": encode_section,
    "memory": memory_section,
    "keypoints": keypoints_section,
    "rasterize": rasterize_section,
}


def machine(options: Options) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    return {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
    }


def report(rows: list[Row], about: dict[str, Any], path: str | None) -> None:
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    table = [[row.section, row.workload, row.ours_ms, row.peer_ms, row.ratio, row.check] for row in rows]
    print(tabulate(table, ["section", "workload", "ours ms", "peer ms", "ratio", "check"], floatfmt=".2f"))
    if path:
        results = [asdict(row) | {"ratio": row.ratio} for row in rows]
        with open(path, "w") as file:
            json.dump({"machine": about, "rows": results}, file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--section", choices=list(SECTIONS), action="append", help="default: all")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = Options(arguments.device, arguments.repeats)
    if arguments.memory_child:
        return memory_child(options, arguments.memory_child)
    rows = [row for name in arguments.section or SECTIONS for row in SECTIONS[name](options)]
    report(rows, machine(options), arguments.json)


if __name__ == "__main__":
    main()
