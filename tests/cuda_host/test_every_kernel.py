"""No kernel of csrc, and no template instance of one, is left out of the tests."""

from __future__ import annotations

import itertools
import re
import subprocess

import torch
from helpers.mask_cases import blobs
from helpers.polygon_cases import instances

from mrcnn_plugin.ops import (
    encode_masks,
    heatmaps_to_keypoints,
    multi_level_roi_align,
    nms_segments,
    paste_masks,
    rasterize_polygons,
)

from . import build, runtime, source


def run_every_op() -> None:
    """One small call for each dtype, layout and kind of kernel."""
    boxes = torch.tensor([[0.0, 2, 3, 30, 20], [0, -5, -5, 9, 9]])
    masks, mask_boxes = blobs(2, 7), torch.tensor([[1.0, 1, 9, 9], [3, 2, 8, 11]])
    for threshold in (0.5, -1.0):
        paste_masks(masks, mask_boxes, (12, 10), threshold)
    encode_masks(masks, mask_boxes, (12, 10))
    heatmaps_to_keypoints(torch.randn(1, 2, 7, 7), mask_boxes[:1])
    for dtype in (torch.float32, torch.float64):
        polygons, polygon_boxes = instances(2)
        rasterize_polygons(polygons, polygon_boxes.to(dtype), 14)
    nms_segments(mask_boxes, torch.tensor([0, 2]), 0.5)
    halves = torch.float16, torch.bfloat16
    types = [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.float64, torch.float32)]
    types += [(half, torch.float32) for half in halves]
    formats = torch.contiguous_format, torch.channels_last
    for (dtype, box_dtype), memory_format, mode, gather, shape in itertools.product(
        types, formats, ("avg", "max"), (False, True), ((8, 3), (3, 3), (1, 40), (2, (1, 3000)))
    ):
        # Gradients too large to stage, and more bins than the tables hold: the kernels of channels first.
        if shape[0] < 3 and (mode, memory_format) != ("avg", torch.contiguous_format):
            continue
        channels, size = shape
        features = torch.randn(1, channels, 5, 7).to(dtype).contiguous(memory_format=memory_format)
        features.requires_grad_()
        torch.use_deterministic_algorithms(gather)
        output = multi_level_roi_align([features], boxes.to(box_dtype), [0.25], size, 2, mode=mode)
        output.sum().backward()
    torch.use_deterministic_algorithms(False)


def names(lines: list[str]) -> set[str]:
    return {line.split()[0] for line in lines}


def instances_in(library) -> set[str]:
    """Kernel instances as the linker knows them: name and template arguments."""
    symbols = subprocess.run(["nm", "-C", str(library)], capture_output=True, text=True, check=True).stdout
    kernels = kernels_of_csrc()
    pattern = re.compile(r" [tTwW] (?:void )?(?:\w+::|\(anonymous namespace\)::)*(\w+)(<.*>)?\(")
    found = set()
    for line in symbols.splitlines():
        match = pattern.search(line)
        if match and match[1] in kernels:
            found.add(match[1] + (match[2] or ""))
    return found


def kernels_of_csrc() -> set[str]:
    return {
        name for path, text in build.read_tree().items() if "/cuda/" in path for name in source.kernels(text)
    }


def test_every_kernel_and_every_instance_runs():
    host = runtime.host()
    with host.ops():
        run_every_op()
    ran = host.kernels_run()
    assert names(ran) == kernels_of_csrc()
    assert len(kernels_of_csrc()) > 10
    assert {with_arguments(one) for one in ran} == instances_in(host.path)


def with_arguments(kernel: str) -> str:
    """kernel<float, 4> of "kernel [with T = float; int V = 4; int64_t = long int]"."""
    name, _, pairs = kernel.rstrip("]").partition(" [with ")
    values = [
        value for key, _, value in (pair.partition(" = ") for pair in pairs.split("; ")) if key[-2:] != "_t"
    ]
    return f"{name}<{', '.join(values)}>" if pairs else name
