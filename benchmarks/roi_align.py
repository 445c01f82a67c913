"""RoIAlign of this package against Detectron2's ROIPooler, torchvision and (where installed) mmcv.

All contenders run interleaved in one process on the same inputs, which change from round to round; medians
after warm-up. Before anything is timed, the results are compared with Detectron2's in float64.

    python benchmarks/roi_align.py --device cpu|cuda [--json FILE] [--workloads W1 W3] [--rounds 20]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import detectron2
import process_memory
import torch
import torchvision
from tabulate import tabulate
from torch import Tensor

import mrcnn_plugin
from mrcnn_plugin.ops import multi_level_roi_align
from mrcnn_plugin.ops.reference.roi_align import assign_levels

OURS = "mrcnn_plugin"
OURS_DETERMINISTIC = "mrcnn_plugin, deterministic"
INPUT_SETS = 3


@dataclass(frozen=True)
class Workload:
    name: str
    what: str
    levels: tuple[tuple[int, int, int], ...]  # stride, H, W
    images: int
    channels: int
    rois: int  # of all images
    output_size: int
    sampling_ratio: int
    box_sizes: tuple[float, float]  # image pixels, log-uniform

    @property
    def scales(self) -> list[float]:
        return [1 / stride for stride, _, _ in self.levels]


# The levels of an 800 x 1333 image, padded to a multiple of 32 as Detectron2 pads it.
PYRAMID = ((4, 200, 336), (8, 100, 168), (16, 50, 84), (32, 25, 42))
WORKLOADS = [
    Workload("W1", "box pooling: pyramid, 1024 RoIs, 7x7", PYRAMID, 2, 256, 1024, 7, 0, (16, 700)),
    Workload("W2", "mask pooling: pyramid, 128 RoIs, 14x14", PYRAMID, 2, 256, 128, 14, 0, (16, 700)),
    Workload("W3a", "one level, 256 RoIs, 7x7, ratio 2", PYRAMID[:1], 1, 256, 256, 7, 2, (16, 400)),
    Workload("W3b", "one level, 256 RoIs, 7x7, ratio 0", PYRAMID[:1], 1, 256, 256, 7, 0, (16, 400)),
    Workload("W4", "C4: one level, 64 large RoIs, 14x14", PYRAMID[2:3], 2, 1024, 64, 14, 0, (300, 800)),
]


@dataclass
class Inputs:
    features: list[Tensor]
    boxes: Tensor  # [K, 5], float32
    grad: Tensor


def make_inputs(work: Workload, device: str, dtype: torch.dtype, channels_last: bool, seed: int) -> Inputs:
    generator = torch.Generator(device).manual_seed(seed)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    features = [
        torch.randn(work.images, work.channels, height, width, generator=generator, device=device)
        .to(dtype)
        .contiguous(memory_format=memory_format)
        .requires_grad_()
        for _, height, width in work.levels
    ]
    grad = torch.randn(
        (work.rois, work.channels, work.output_size, work.output_size), generator=generator, device=device
    )
    grad = grad.to(dtype).contiguous(memory_format=memory_format)
    return Inputs(features, make_boxes(work, seed).to(device), grad)


def make_boxes(work: Workload, seed: int) -> Tensor:
    """Boxes as a detector sees them: any place, log-uniform size, aspect ratio 1:2 to 2:1, clipped."""
    generator = torch.Generator().manual_seed(seed)
    stride, height, width = work.levels[0]
    extent = torch.tensor([width * stride, height * stride])
    low, high = (torch.tensor(size).log() for size in work.box_sizes)
    size = torch.exp(low + (high - low) * torch.rand(work.rois, 1, generator=generator))
    aspect = torch.exp2(torch.rand(work.rois, 1, generator=generator) - 0.5)
    half = torch.cat([size * aspect, size / aspect], dim=1) / 2
    centre = torch.rand(work.rois, 2, generator=generator) * extent
    corners = torch.cat([(centre - half).clamp(min=0), torch.minimum(centre + half, extent)], dim=1)
    index = torch.arange(work.rois) % work.images
    order = index.argsort(stable=True)
    return torch.cat([index[order, None], corners[order]], dim=1)


Contender = Callable[[list[Tensor], Tensor], Tensor]


def contenders(work: Workload, device: str, dtype: torch.dtype) -> dict[str, Contender]:
    size, ratio = work.output_size, work.sampling_ratio

    def ours(features: list[Tensor], boxes: Tensor) -> Tensor:
        return multi_level_roi_align(features, boxes, work.scales, size, ratio)

    found: dict[str, Contender] = {OURS: ours}
    if device == "cuda":
        found[OURS_DETERMINISTIC] = ours
    peers: dict[str, Contender] = {"detectron2": detectron2_pooler(work)}
    if len(work.levels) == 1:
        peers["torchvision"] = lambda features, boxes: torchvision.ops.roi_align(
            features[0], boxes.to(features[0].dtype), size, work.scales[0], ratio, True
        )
        if importlib.util.find_spec("mmcv"):
            from mmcv.ops import roi_align as mmcv_roi_align

            peers["mmcv"] = lambda features, boxes: mmcv_roi_align(
                features[0], boxes.to(features[0].dtype), (size, size), work.scales[0], max(ratio, 0)
            )
    for name, peer in peers.items():
        found[name] = via_float32(peer) if needs_float32(peer, work, device, dtype) else peer
    return found


def detectron2_pooler(work: Workload) -> Contender:
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.structures import Boxes

    pooler = ROIPooler(work.output_size, work.scales, work.sampling_ratio, "ROIAlignV2")

    def run(features: list[Tensor], boxes: Tensor) -> Tensor:
        per_image = boxes[:, 1:].split(work.rois // work.images)
        return pooler(features, [Boxes(one) for one in per_image])

    return run


def via_float32(peer: Contender) -> Contender:
    """What a user has to do where a peer has no kernel for the dtype: convert there and back."""
    return lambda features, boxes: peer([f.float() for f in features], boxes).to(features[0].dtype)


def needs_float32(peer: Contender, work: Workload, device: str, dtype: torch.dtype) -> bool:
    features = [torch.zeros(work.images, 1, h, w, dtype=dtype, device=device) for _, h, w in work.levels]
    try:
        peer(features, make_boxes(work, 0).to(device))
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for" not in str(error):
            raise
        return True
    return False


def check(work: Workload, inputs: Inputs, runs: dict[str, Contender]) -> dict[str, tuple[float, float]]:
    """Largest error of output and gradient on a few channels, against Detectron2 in float64."""
    channels = slice(0, 6)

    def slices(dtype: torch.dtype) -> list[Tensor]:
        return [f.detach()[:, channels].to(dtype).requires_grad_() for f in inputs.features]

    exact = slices(torch.float64)
    expected = detectron2_pooler(work)(exact, inputs.boxes)
    grad = inputs.grad[:, channels]
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    errors = {}
    for name, run in runs.items():
        features = slices(inputs.features[0].dtype)
        output = run(features, inputs.boxes)
        grads = torch.autograd.grad(output, features, grad)
        pairs = zip(grads, expected_grads)
        errors[name] = (
            (output - expected).abs().max().item(),
            max((mine - want).abs().max().item() for mine, want in pairs),
        )
    # Sums in float32 of features and gradients of size 1, then one rounding; the gradient of a pixel may
    # add up the shares of dozens of RoIs.
    allowed = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}[inputs.features[0].dtype]
    if errors[OURS][0] > allowed or errors[OURS][1] > 10 * allowed:
        raise SystemExit(f"{work.name}: wrong results, errors {errors[OURS]}, allowed {allowed}")
    return errors


class Stopwatch:
    """Seconds that a call takes on the device."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def __call__(self, call: Callable):
        if not self.cuda:
            start = time.perf_counter()
            result = call()
            return result, time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        result = call()
        end.record()
        torch.cuda.synchronize()
        return result, begin.elapsed_time(end) / 1e3


class PeakMemory:
    """Bytes that a call needs at its peak beyond what was there before it, its result included."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def __call__(self, call: Callable):
        before = self._start()
        result = call()
        return result, self._peak() - before

    def _start(self) -> int:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        process_memory.settled()
        return process_memory.start_peak()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.cuda else process_memory.peak()


def step(run: Contender, inputs: Inputs, meter: Callable) -> tuple[float, float]:
    """What `meter` says of a forward and of the backward after it."""
    output, forward = meter(lambda: run(inputs.features, inputs.boxes))
    _, backward = meter(lambda: torch.autograd.grad(output, inputs.features, inputs.grad))
    return forward, backward


def measure(runs: dict[str, Contender], sets: list[Inputs], device: str, rounds: int) -> dict[str, dict]:
    times: dict[str, list] = {name: [] for name in runs}
    memory: dict[str, tuple] = {}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            torch.use_deterministic_algorithms(name == OURS_DETERMINISTIC)
            result = step(run, sets[turn % len(sets)], Stopwatch(device))
            torch.use_deterministic_algorithms(False)
            if turn >= 2:
                times[name].append(result)
            elif turn == 1:
                memory[name] = step(run, sets[0], PeakMemory(device))
    return {
        name: {
            "forward": statistics.median(forward for forward, _ in values),
            "backward": statistics.median(backward for _, backward in values),
            "forward_memory": memory[name][0],
            "backward_memory": memory[name][1],
        }
        for name, values in times.items()
    }


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of a plain copy by PyTorch."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    stopwatch = Stopwatch(device)
    best = min(stopwatch(lambda: target.copy_(source))[1] for _ in range(10))
    return 2 * source.numel() * source.element_size() / best


def bytes_to_move(work: Workload, inputs: Inputs) -> tuple[int, int]:
    """Forward: pixels under any RoI, and the output. Backward: its gradient, and those of all pixels."""
    boxes = inputs.boxes.cpu()
    levels = assign_levels(boxes[:, 1:], work.scales, 224, 4)
    pixels = 0
    for level, (stride, height, width) in enumerate(work.levels):
        touched = torch.zeros(work.images, height, width, dtype=torch.bool)
        for batch, x1, y1, x2, y2 in boxes[levels == level].tolist():
            rows = slice(max(int(y1 / stride - 0.5), 0), int(y2 / stride) + 1)
            touched[int(batch), rows, max(int(x1 / stride - 0.5), 0) : int(x2 / stride) + 1] = True
        pixels += int(touched.sum())
    element = inputs.grad.element_size()
    output = inputs.grad.numel() * element
    maps = sum(feature.numel() for feature in inputs.features) * element
    return pixels * work.channels * element + output, maps + output


def run_workload(
    work: Workload, device: str, dtype: torch.dtype, channels_last: bool, rounds: int, bandwidth
):
    sets = [make_inputs(work, device, dtype, channels_last, seed) for seed in range(INPUT_SETS)]
    runs = contenders(work, device, dtype)
    errors = check(work, sets[0], runs)
    results = measure(runs, sets, device, rounds)
    forward_bytes, backward_bytes = bytes_to_move(work, sets[0])
    rows = []
    for name, result in results.items():
        rows.append(
            {
                "workload": work.name,
                "layout": "NHWC" if channels_last else "NCHW",
                "dtype": str(dtype).removeprefix("torch."),
                "contender": name,
                **result,
                "forward_share": forward_bytes / result["forward"] / bandwidth,
                "backward_share": backward_bytes / result["backward"] / bandwidth,
                "forward_error": errors[name][0],
                "backward_error": errors[name][1],
            }
        )
        for direction in ("forward", "backward"):
            rows[-1][f"{direction}_ratio"] = result[direction] / results[OURS][direction]
    return rows


def table(rows: list[dict]) -> str:
    header = ["", "layout", "dtype", "contender", "fwd ms", "x", "share", "MB", "bwd ms", "x", "share", "MB"]
    body = []
    for row in rows:
        line = [row["workload"], row["layout"], row["dtype"], row["contender"]]
        for direction in ("forward", "backward"):
            line += [
                f"{row[direction] * 1e3:.2f}",
                f"{row[f'{direction}_ratio']:.1f}",
                f"{row[f'{direction}_share']:.0%}",
                f"{row[f'{direction}_memory'] / 2**20:.0f}",
            ]
        body.append(line)
    return tabulate(body, header, tablefmt="github", disable_numparse=True)


def summary(rows: list[dict]) -> list[str]:
    """Geometric mean and least of the peers' times over ours, by direction."""
    lines = []
    for direction in ("forward", "backward"):
        ratios = [row[f"{direction}_ratio"] for row in rows if row["contender"] == "detectron2"]
        if ratios:
            lines.append(
                f"{direction}: Detectron2 takes {statistics.geometric_mean(ratios):.1f} times as long "
                f"(geometric mean), least {min(ratios):.1f}"
            )
    return lines


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = model[0].split(":")[1].strip() if model else "CPU"
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workloads", nargs="+", choices=[work.name for work in WORKLOADS])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    dtypes = args.dtypes or ["float32", "bfloat16"] + (["float16"] if args.device == "cuda" else [])
    bandwidth = copy_bandwidth(args.device)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(args.device),
        "copy_bandwidth": bandwidth,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        "mrcnn_plugin": mrcnn_plugin.__version__,
        "rounds": args.rounds,
    }
    print(about, flush=True)
    rows = []
    for work in WORKLOADS:
        if args.workloads and work.name not in args.workloads:
            continue
        for channels_last in (False, True):
            for dtype in dtypes:
                new = run_workload(
                    work, args.device, getattr(torch, dtype), channels_last, args.rounds, bandwidth
                )
                rows += new
                print(table(new), flush=True)
                if args.json:
                    args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    print(*summary(rows), sep="\n")


if __name__ == "__main__":
    main()
