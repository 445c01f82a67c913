"""Every RoIAlign CUDA kernel once, on small input: what compute-sanitizer runs (see gpu_check.sh)."""

from __future__ import annotations

import itertools

import torch

from mrcnn_plugin.ops import multi_level_roi_align, roi_align

SIZES = [(24, 30), (12, 15)]
BOXES = [
    [0, 2, 2, 60, 50],
    [1, -20, 30, 40, 140],
    [0, 5, 5, 5, 5],
    [1, 90, 80, 20, 10],
    [0, -1e6, -1e6, 1e6, 1e6],
    [7, 0, 0, 10, 10],
    [0, float("nan"), 0, 10, 10],
]


def exercise(dtype: torch.dtype, memory_format: torch.memory_format, mode: str, deterministic: bool) -> None:
    features = [
        torch.randn(2, 24, *size, device="cuda")
        .to(dtype)
        .contiguous(memory_format=memory_format)
        .requires_grad_()
        for size in SIZES
    ]
    boxes = torch.tensor(BOXES, device="cuda")
    torch.use_deterministic_algorithms(deterministic)
    options = {"canonical_box_size": 32, "canonical_level": 2, "mode": mode}
    for sampling_ratio in (0, 2):
        output = multi_level_roi_align(features, boxes, [1 / 4, 1 / 8], 7, sampling_ratio, **options)
        output.backward(torch.ones_like(output))
    # 23 channels do not divide into vectors; 1500 bins in a row do not fit the tables.
    odd = features[0].detach()[:, 1:].contiguous(memory_format=memory_format).requires_grad_()
    roi_align(odd, boxes, 3, 0.25, 2, mode=mode).sum().backward()
    roi_align(odd[:, :2], boxes[:1], (1, 1500), 0.25, 1, mode=mode).sum().backward()


def main() -> None:
    layouts = (torch.contiguous_format, torch.channels_last)
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    for arguments in itertools.product(dtypes, layouts, ("avg", "max"), (False, True)):
        exercise(*arguments)
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
