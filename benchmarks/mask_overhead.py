"""What the mask branch costs at inference: Mask R-CNN against Faster R-CNN on the same weights.

    python benchmarks/mask_overhead.py [--device cpu|cuda] [--detections 10 100] [--repeats N] [--json FILE]

The paper reports about 20% (section 4.4). R50-FPN with random weights: the detections are as many as asked
for, and every variant gets the same ones, to which the masks are added. Ours, on the CPU its optimized copy
with masks as RLE, as predict.py runs it, and Detectron2's are run one after the other on the same image, in
alternating order; times are medians after warm-up.

On the CPU a last line says what the multiplications of the mask head alone must take: its operations, with
3x3 convolutions by Winograd's F(4x4, 3x3), over the rate of matrix products of the same sizes.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead, StandardROIHeads
from omegaconf import DictConfig
from pycocotools import mask as mask_util
from tabulate import tabulate
from torch import nn

from mrcnn_plugin import model_zoo, optimize

WARM_UP = 2
PAPER_PERCENT = 20


def detectron2s(model: DictConfig) -> DictConfig:
    """The same config with Detectron2's own classes."""
    model._target_ = GeneralizedRCNN
    del model.mask_format
    model.roi_heads._target_ = StandardROIHeads
    model.roi_heads.mask_head._target_ = MaskRCNNConvUpsampleHead
    for name in ("box_pooler", "mask_pooler"):
        model.roi_heads[name]._target_ = ROIPooler
    return model


def build(device: str) -> dict[str, nn.Module]:
    """Models by library; one state dict."""
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
    torch.manual_seed(0)
    ours = instantiate(model_zoo.get_config(name).model)
    # As after training: residuals that do not pile up, scores that differ from box to box.
    for buffer, value in ours.backbone.bottom_up.named_buffers():
        if buffer.endswith("conv3.norm.weight"):
            value *= 0.1
    ours.roi_heads.box_predictor.cls_score.weight.data *= 20
    theirs = instantiate(detectron2s(model_zoo.get_config(name).model))
    theirs.load_state_dict(ours.state_dict())
    models = {"ours": ours.to(device).eval(), "Detectron2": theirs.to(device).eval()}
    if device == "cpu":
        models["optimized"] = optimize(ours)
        models["optimized"].mask_format = "rle"
    return models


def set_detections(models: dict[str, nn.Module], image: dict, count: int) -> None:
    """Sets the score threshold so that about `count` boxes of the image are left, by bisection."""
    low, high = 0.0, 1.0
    for model in models.values():
        model.roi_heads.mask_on = False
        model.roi_heads.box_predictor.test_topk_per_image = count
    probe = models["ours"]
    with torch.no_grad():
        batch = probe.preprocess_image([image])
        features = probe.backbone(batch.tensor)
        proposals, _ = probe.proposal_generator(batch, features)
        for _ in range(12):
            probe.roi_heads.box_predictor.test_score_thresh = middle = (low + high) / 2
            found = len(probe.roi_heads(batch, features, proposals)[0][0])
            low, high = (middle, high) if found >= count else (low, middle)
    for model in models.values():
        model.roi_heads.box_predictor.test_score_thresh = low


@torch.no_grad()
def timed(model: nn.Module, image: dict, masks: bool) -> tuple[float, object]:
    """Seconds and detections of one image; times include preprocessing and pasted masks."""
    model.roi_heads.mask_on = masks
    on_cuda = model.device.type == "cuda"
    if on_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = model.inference([image])[0]["instances"]
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def check(results: dict[tuple[str, bool], object]) -> str:
    """Same boxes with and without masks, same masks from both: the share of pixels that agree."""
    for library in {library for library, _ in results}:
        torch.testing.assert_close(
            results[library, True].pred_boxes.tensor, results[library, False].pred_boxes.tensor
        )
    ours, theirs = results["ours", True], results["Detectron2", True]
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=0.05, rtol=1e-3)
    equal = (ours.pred_masks == theirs.pred_masks).float().mean().item()
    if ("optimized", True) in results:
        rles = results["optimized", True].pred_masks_rle
        masks = torch.from_numpy(mask_util.decode(list(rles))).permute(2, 0, 1)
        equal = min(equal, (masks == theirs.pred_masks).float().mean().item())
    if equal < 0.999:
        raise AssertionError(f"masks of ours and of Detectron2 agree in {equal:.4%} of the pixels only")
    return f"{equal:.4%}"


def bound(detections: int, repeats: int) -> str:
    """What multiplying alone takes in the mask head, 4 convolutions and a deconvolution of 256 channels."""
    side, channels = 14, 256
    # Of each tile of 4x4 outputs 36 products; sides are filled up to whole tiles.
    tiles = detections * ((side + 3) // 4) ** 2
    shapes = 4 * [(36, tiles, channels)] + [(1, detections * side**2, 4 * channels)]
    operations = sum(2 * batch * rows * channels * columns for batch, rows, columns in shapes)
    seconds = []
    for _ in range(repeats):
        spent = 0.0
        for batch, rows, columns in shapes:
            left, right = torch.rand(batch, rows, channels), torch.rand(batch, channels, columns)
            start = time.perf_counter()
            torch.bmm(left, right)
            spent += time.perf_counter() - start
        seconds.append(spent)
    giga, least = operations / 1e9, min(seconds)
    return f"{detections} detections: {giga:.1f} GFLOP at {giga / least:.0f}/s are {1000 * least:.0f} ms"


def measure(models: dict[str, nn.Module], image: dict, count: int, repeats: int) -> dict:
    set_detections(models, image, count)
    times: dict[tuple[str, bool], list[float]] = {(lib, m): [] for lib in models for m in (False, True)}
    results: dict[tuple[str, bool], object] = {}
    for repeat in range(WARM_UP + repeats):
        for library, masks in times if repeat % 2 else reversed(times):
            seconds, results[library, masks] = timed(models[library], image, masks)
            if repeat >= WARM_UP:
                times[library, masks].append(seconds)
    found = len(results["ours", True])
    if found == 0:
        raise AssertionError("the random weights find nothing at this size of image: choose a larger one")
    row = {"detections": found, "equal_pixels": check(results)}
    for library in models:
        box, mask = (1000 * statistics.median(times[library, m]) for m in (False, True))
        row[library] = {"faster_ms": box, "mask_ms": mask, "overhead_percent": 100 * (mask / box - 1)}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--detections", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1216], help="height and width, pixels")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    models = build(args.device)
    generator = torch.Generator().manual_seed(0)
    height, width = args.size
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    image = {"image": pixels, "height": height, "width": width}
    rows = [measure(models, image, count, args.repeats) for count in args.detections]
    device = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    )
    print(f"R50-FPN, {height}x{width}, {device}, torch {torch.__version__}, {datetime.date.today()}")
    table = [
        [row["detections"], lib, *(f"{v:.0f}" for v in row[lib].values()), row["equal_pixels"]]
        for row in rows
        for lib in models
    ]
    print(tabulate(table, ["detections", "library", "box ms", "with masks ms", "overhead %", "equal pixels"]))
    print(f"paper: about {PAPER_PERCENT}%")
    if args.device == "cpu":
        print(*(bound(row["detections"], args.repeats) for row in rows), sep="\n")
    if args.json:
        about = {"device": device, "torch": torch.__version__, "machine": platform.machine()}
        args.json.write_text(json.dumps({**about, "size": args.size, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
