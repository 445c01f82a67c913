"""Whether the native kernels of a device give the CPU's results, on inputs that take milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import reference
from .reference import roi_align as roi_align_reference

Kernels = Callable[..., Tensor | Sequence[Tensor]]


@dataclass(frozen=True)
class Check:
    """One op on one input.

    Attributes:
        name: of the op, and what of it is checked.
        native: runs the native kernels of a device; returns results on the CPU.
        twin: runs the op's PyTorch twin on the CPU.
        tolerance: largest difference, relative to the largest value and absolute for values below 1.
    """

    name: str
    native: Callable[[str], list[Tensor]]
    twin: Callable[[], list[Tensor]]
    tolerance: float = 0.0


def checks(thorough: bool = False) -> Iterator[Check]:
    """Every op: once, or in every dtype, layout and mode that has kernels of its own."""
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16) if thorough else (torch.float32,)
    modes = (False, True) if thorough else (False,)
    for dtype, channels_last, max_pool in itertools.product(dtypes, (False, True), modes):
        yield _roi_align(dtype, channels_last, max_pool)
    masks, boxes = _wave(2, 7, 7).abs(), torch.tensor([[1.5, 2.0, 14.0, 17.5], [-3.0, 6.0, 8.0, 30.0]])
    arguments = (masks, boxes, 20, 16, 0.5)
    ops = torch.ops.mrcnn_plugin
    yield _check("paste_masks", ops.paste_masks, reference.masks.paste_masks, arguments)
    yield _check("encode_masks", ops.encode_masks, reference.masks.encode_masks, arguments)
    yield _check(
        "heatmaps_to_keypoints",
        ops.heatmaps_to_keypoints,
        reference.keypoints.heatmaps_to_keypoints,
        (_wave(2, 2, 8, 9), torch.tensor([[2.0, 3.0, 22.0, 31.0], [0.0, 0.0, 9.5, 6.0]])),
        tolerance=1e-4,
    )
    corners = _wave(40, 4).abs().cumsum(dim=1)
    offsets = torch.tensor([0, 25, 25, 38])
    yield _check("nms_segments", ops.nms_segments, reference.nms.nms_segments, (corners, offsets, 0.4))
    polygons = torch.tensor([2.0, 2, 17, 3, 15, 14, 1, 9, 4, 4, 12, 5, 6, 13], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64) if thorough else (torch.float32,):
        yield _check(
            f"rasterize_polygons, {dtype}".replace("torch.", ""),
            ops.rasterize_polygons,
            reference.polygons.rasterize_polygons,
            (
                polygons,
                torch.tensor([0, 8, 14]),
                torch.tensor([0, 1, 2]),
                torch.tensor([[0.0, 0, 18, 16], [3, 3, 11, 12]], dtype=dtype),
                28,
            ),
        )


def differences(device: str, thorough: bool = False) -> list[tuple[str, str]]:
    """(name of the check, "" where the results agree, else what differs) of every check on a device.

    A CUDA device is compared with the CPU's native kernels, the CPU with the PyTorch twins.
    """
    found = []
    # Not in anybody's tracing or redirecting of ops, and with no trace in autograd.
    with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
        for check in checks(thorough):
            expected = check.twin() if device == "cpu" else check.native("cpu")
            try:
                found.append((check.name, _difference(check.native(device), expected, check.tolerance)))
            except RuntimeError as error:
                found.append((check.name, f"fails: {str(error).splitlines()[0]}"))
    return found


def _check(name: str, native: Kernels, twin: Kernels, arguments: Sequence, tolerance: float = 0.0) -> Check:
    def run(device: str) -> list[Tensor]:
        return _on_cpu(native(*(a.to(device) if isinstance(a, Tensor) else a for a in arguments)))

    return Check(name, run, lambda: _on_cpu(twin(*arguments)), tolerance)


def _roi_align(dtype: torch.dtype, channels_last: bool, max_pool: bool) -> Check:
    """Forward, and both backwards, on two levels."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    features = [
        _wave(1, 8, size, size + 3).to(dtype).contiguous(memory_format=memory_format) for size in (12, 6)
    ]
    boxes = torch.tensor([[0.0, 3, 4, 21, 30], [0, -6, 2, 90, 41], [0, 10, 10, 12, 11]])
    grad = _wave(3, 8, 3, 2).to(dtype).contiguous(memory_format=memory_format)
    scales, tail = [1 / 4, 1 / 8], (2, 32.0, 3, True, max_pool)

    def native(device: str) -> list[Tensor]:
        maps, rois, ops = [f.to(device) for f in features], boxes.to(device), torch.ops.mrcnn_plugin
        results = [ops.multi_level_roi_align(maps, rois, scales, 3, 2, *tail)]
        for deterministic in (False, True):
            results += ops.multi_level_roi_align_backward(
                grad.to(device), maps, rois, scales, *tail, deterministic
            )
        return _on_cpu(results)

    def twin() -> list[Tensor]:
        with torch.enable_grad():
            leaves = [f.clone(memory_format=torch.preserve_format).requires_grad_() for f in features]
            output = roi_align_reference.multi_level_roi_align(leaves, boxes, scales, 3, 2, *tail)
            grads = torch.autograd.grad(output, leaves, grad)
        return [output.detach(), *grads, *grads]

    layout, mode = "channels last" if channels_last else "channels first", "max" if max_pool else "avg"
    name = f"multi_level_roi_align and backward, {dtype}, {layout}, {mode}".replace("torch.", "")
    return Check(name, native, twin, tolerance=1e-5 if dtype.itemsize > 2 else 4 * torch.finfo(dtype).eps)


def _wave(*shape: int) -> Tensor:
    """Numbers in [-1, 1] without a pattern, and without the random generator of the caller."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32, device="cpu").square().mul(0.37).sin().view(shape)


def _on_cpu(results: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [one.cpu() for one in ([results] if isinstance(results, Tensor) else results)]


def _difference(results: list[Tensor], expected: list[Tensor], tolerance: float) -> str:
    for i, (got, want) in enumerate(zip(results, expected)):
        if got.shape != want.shape or got.dtype != want.dtype:
            return (
                f"result {i} is {got.dtype} of shape {tuple(got.shape)}, "
                f"expected {want.dtype} of shape {tuple(want.shape)}"
            )
        got, want = got.double(), want.double()
        scale = max(1.0, want.abs().max().item() if want.numel() else 0.0)
        error = (got - want).abs().nan_to_num(nan=torch.inf)
        if error.numel() and error.max() > tolerance * scale:
            at = int(error.argmax())
            return (
                f"result {i} is {got.flatten()[at]:.7g} at {at} of {got.numel()}, "
                f"expected {want.flatten()[at]:.7g}"
            )
    return ""
