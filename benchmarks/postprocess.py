"""What comes after the network, ours against Detectron2 + pycocotools, in one run.

    python benchmarks/postprocess.py [--device cpu|cuda] [--section NAME ...] [--repeats N] [--json FILE]

Both sides get the same fresh inputs in each repetition, one after the other, in alternating order; times are
medians after warm-up. Results are compared in the same run.
"""

from __future__ import annotations

# First, since it mends Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import datetime
import json
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
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
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
    """Starts a new peak (Linux) and returns the memory held now."""
    Path("/proc/self/clear_refs").write_text("5")
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return peak_mb(options)


def peak_mb(options: Options) -> float:
    """Peak resident memory of the host plus, on CUDA, peak memory allocated on the device."""
    status = Path("/proc/self/status").read_text()
    host = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    return host + (torch.cuda.max_memory_allocated() / 1e6 if options.device == "cuda" else 0)


SECTIONS: dict[str, Callable[[Options], list[Row]]] = {
    "paste": paste_section,
    "encode": encode_section,
    "memory": memory_section,
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
