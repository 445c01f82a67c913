"""What the CUDA kernels of RoIAlign ask of a GPU, counted without one: they are executed on the host.

    python benchmarks/cuda_cost.py [--workloads W1 W3a] [--json FILE] [--resources]

For the workloads of roi_align.py: bytes asked for, 32-byte sectors that warps touch, bytes that must move at
least, bank conflicts, atomics, launches and barriers, and the time below which no H100 or A100 can be. Beside
csrc's kernels stand those of plain_roi_align/, the usual design, counted in the same way. --resources adds
registers, spills and occupancy, from nvcc. tests/cuda_host/README.md says what is counted and how; no time is
measured.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from roi_align import WORKLOADS, Inputs, Workload, make_inputs
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from cuda_host import build, runtime  # noqa: E402

from mrcnn_plugin.ops.reference.roi_align import assign_levels  # noqa: E402

# Bytes per second of device memory, from NVIDIA's data sheets: H100 SXM, A100 80 GB SXM.
BANDWIDTH = {"H100": 3.35e12, "A100": 2.039e12}
# Of a multiprocessor: registers, threads, bytes of shared memory, blocks (CUDA C++ Programming Guide,
# compute capabilities).
MULTIPROCESSOR = {"sm_80": (65536, 2048, 164 * 1024, 32), "sm_90": (65536, 2048, 228 * 1024, 32)}
SETTINGS = [("channels last", torch.bfloat16), ("channels first", torch.float32)]


@dataclass
class Row:
    workload: str
    what: str
    kernels: str
    asked: float  # MB
    warp_sectors: float  # MB
    block_sectors: float  # MB
    must_move: float  # MB
    conflicts: float  # passes beyond the least, for each shared access
    atomics: float  # millions
    launches: int
    barriers: float  # thousands

    @property
    def ratio(self) -> float:
        return self.warp_sectors / self.must_move


def touched(low, high, scale: float, bins: int, ratio: int, size: int) -> np.ndarray:
    """Pixels of an axis that the samples of a RoI read, ascending (aligned)."""
    start, length = float(low) * scale - 0.5, (float(high) - float(low)) * scale
    samples = (
        ratio if ratio > 0 else int(np.ceil(np.float32((high - low) * np.float32(scale)) / np.float32(bins)))
    )
    at = start + (np.arange(bins * samples) + 0.5) * length / (bins * samples)
    at = at[(at >= -1) & (at <= size)].clip(0, size - 1)
    below = at.astype(int)
    return np.unique(np.concatenate([below, np.minimum(below[at > below] + 1, size - 1)]))


def window_pixels(work: Workload, boxes: torch.Tensor) -> int:
    """Pixels that the RoIs read, each counted once for each RoI."""
    levels = assign_levels(boxes[:, 1:], work.scales, 224, 4).tolist()
    total = 0
    for (_, x1, y1, x2, y2), level in zip(boxes.numpy(), levels):
        _, height, width = work.levels[level]
        arguments = (work.scales[level], work.output_size, work.sampling_ratio)
        total += len(touched(y1, y2, *arguments, height)) * len(touched(x1, x2, *arguments, width))
    return total


def must_move(work: Workload, inputs: Inputs, what: str) -> int:
    """Bytes to and from memory if a RoI shares nothing with another one, and no byte of it moves twice."""
    element = inputs.features[0].element_size()
    pooled = inputs.grad.numel() * element + inputs.boxes.numel() * 4
    windows = window_pixels(work, inputs.boxes) * work.channels * element
    maps = sum(feature.numel() for feature in inputs.features) * element
    return pooled + {"forward": windows, "gather": maps, "scatter": windows}[what]


def run_ours(host: runtime.Host, work: Workload, inputs: Inputs, what: str) -> None:
    size, tail = work.output_size, (work.sampling_ratio, 224.0, 4, True, False)
    if what == "forward":
        host.call("multi_level_roi_align", inputs.features, inputs.boxes, work.scales, size, size, *tail)
    else:
        arguments = (inputs.grad, inputs.features, inputs.boxes, work.scales, *tail, what == "gather")
        host.call("multi_level_roi_align_backward", *arguments)


def run_plain(host: runtime.Host, work: Workload, inputs: Inputs, what: str) -> None:
    """One call a level; channels first, whatever the layout of the inputs."""
    levels = assign_levels(inputs.boxes[:, 1:], work.scales, 224, 4)
    for level, feature in enumerate(inputs.features):
        places = (levels == level).nonzero().flatten()
        maps, pooled = feature.contiguous(), inputs.grad.contiguous()
        maps = maps if what == "forward" else torch.zeros_like(maps, dtype=torch.float32)
        arguments = (work.scales[level], work.output_size, work.sampling_ratio, pooled, what != "forward")
        host.call("plain_roi_align", maps, inputs.boxes[places], places, *arguments)


def count(host: runtime.Host, run: Callable[[], None], most_blocks: int) -> dict[str, runtime.Cost]:
    host.configure(races=False, cost=True, most_blocks=most_blocks)
    host.costs()
    run()
    return {name: cost.whole() for name, cost in host.costs().items()}


def row(work: Workload, inputs: Inputs, what: str, label: str, costs: dict[str, runtime.Cost]) -> Row:
    total = {field: sum(getattr(cost, field) for cost in costs.values()) for field in runtime.Cost._fields}
    sector = 32 / 1e6
    warp = sum(cost.sectors for cost in costs.values())
    return Row(
        work.name,
        label,
        ", ".join(sorted(name.split()[0] for name in costs)),
        (total["read_bytes"] + total["written_bytes"]) / 1e6,
        warp * sector,
        total["block_sectors"] * sector,
        must_move(work, inputs, what) / 1e6,
        total["bank_conflicts"] / max(total["shared_accesses"], 1),
        total["atomics"] / 1e6,
        total["launches"],
        total["barriers"] / 1e3,
    )


@cache
def hosts() -> tuple[runtime.Host, runtime.Host]:
    """The libraries of csrc's kernels and of the plain ones, built to count."""
    folder = ROOT / "benchmarks" / "plain_roi_align"
    extra = {
        "plain/cuda/plain_roi_align.cu": (folder / "plain_roi_align.cu").read_text(),
        "ops.cpp": (folder / "plain_ops.cpp").read_text(),
    }
    plain = build.build(["plain/cuda/plain_roi_align.cu"], extra=extra, cost=True)
    return runtime.Host(*build.build(cost=True)), runtime.Host(*plain)


def measure(work: Workload, layout: str, dtype: torch.dtype, most_blocks: int) -> list[Row]:
    """Our kernels, and where they do the same the plain ones, on one workload."""
    ours, plain = hosts()
    inputs = make_inputs(work, "cpu", dtype, layout == "channels last", seed=0)
    inputs.features = [feature.detach() for feature in inputs.features]
    rows = []
    for what in ("forward", "gather", "scatter"):
        if what == "scatter" and dtype == torch.bfloat16:
            continue  # halves are always gathered
        name = str(dtype).removeprefix("torch.")
        print(f"{work.name}: {what}, {layout}, {name}", file=sys.stderr, flush=True)
        costs = count(ours, partial(run_ours, ours, work, inputs, what), most_blocks)
        rows.append(row(work, inputs, what, f"{what}, {layout}, {name}", costs))
        if what != "gather":
            costs = count(plain, partial(run_plain, plain, work, inputs, what), most_blocks)
            rows.append(row(work, inputs, what, f"{what}, plain, {name}", costs))
    return rows


def costs_table(rows: list[Row]) -> str:
    headers = ["", "kernels", "asked", "warp sectors", "block sectors", "must move", "sectors / must move"]
    headers += [
        "conflicts",
        "atomics (M)",
        "launches",
        "barriers (k)",
        *(f"{gpu} at least" for gpu in BANDWIDTH),
    ]
    table = [
        [
            f"{r.workload} {r.what}",
            r.kernels,
            *(f"{v:.0f}" for v in (r.asked, r.warp_sectors, r.block_sectors, r.must_move)),
            f"{r.ratio:.2f}",
            f"{r.conflicts:.2f}",
            f"{r.atomics:.1f}",
            r.launches,
            f"{r.barriers:.0f}",
            *(f"{r.must_move * 1e6 / rate * 1e6:.0f} us" for rate in BANDWIDTH.values()),
        ]
        for r in rows
    ]
    return tabulate(table, headers=headers, tablefmt="github", disable_numparse=True)


def resources() -> list[dict]:
    """Registers, spills, shared memory and occupancy of every kernel, by nvcc and its assembler."""
    jobs = [(arch, path) for arch in MULTIPROCESSOR for path in build.cuda_sources()]
    with ThreadPoolExecutor() as pool:
        return [entry for found in pool.map(lambda job: _resources(*job), jobs) for entry in found]


def _resources(arch: str, path: str) -> list[dict]:
    include = Path(torch.__file__).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        line = ["nvcc", "-O3", "-std=c++20", "-DUSE_CUDA", f"-arch={arch}", "-cubin", "-Xptxas=-v"]
        line += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{build.CSRC}", "-isystem", str(include)]
        line += [str(build.CSRC / path), "-o", str(Path(folder, "out.cubin"))]
        text = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    pattern = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
        re.DOTALL,
    )
    found = []
    for mangled, stack, stores, loads, registers, shared in pattern.findall(text):
        name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
        name = re.sub(r"\(anonymous namespace\)::|mrcnn_plugin::|void |c10::", "", name).split("(")[0].strip()
        numbers = map(int, (stack, stores, loads, registers, shared or 0))
        keys = ("stack", "spill_stores", "spill_loads", "registers", "static_shared")
        entry = {"arch": arch, "kernel": name, **dict(zip(keys, numbers))}
        # Of a block of 256 threads without dynamic shared memory.
        entry["occupancy"] = occupancy(arch, entry["registers"], 256, entry["static_shared"])
        found.append(entry)
    return found


def occupancy(arch: str, registers: int, threads: int, shared: int) -> float:
    """Share of a multiprocessor's threads that can be resident; registers are handed out 256 a warp."""
    all_registers, all_threads, all_shared, all_blocks = MULTIPROCESSOR[arch]
    warps = -(-threads // 32)
    by_registers = all_registers // (-(-registers * 32 // 256) * 256 * warps)
    # Of each block's shared memory the system takes 1 KiB.
    by_shared = all_shared // (shared + 1024)
    return min(all_blocks, all_threads // threads, by_registers, by_shared) * threads / all_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workloads", nargs="+", default=[work.name for work in WORKLOADS])
    parser.add_argument("--blocks", type=int, default=1024, help="of each grid, evenly spaced")
    parser.add_argument(
        "--resources", action="store_true", help="compile with nvcc, for registers and occupancy"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    works = [work for work in WORKLOADS if work.name in options.workloads]
    rows = [r for work in works for setting in SETTINGS for r in measure(work, *setting, options.blocks)]
    print("MB; sectors are of 32 bytes and given in MB, too\n")
    print(costs_table(rows))
    compiled = resources() if options.resources else []
    if compiled:
        print()
        print(tabulate(compiled, headers="keys", tablefmt="github"))
    if options.json:
        report = {"costs": [asdict(r) for r in rows], "resources": compiled}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
