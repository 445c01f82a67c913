"""Where an image's time goes from pixels to scored results: ours with masks as RLE, and Detectron2's.

    DETECTRON2_DATASETS=DIR python benchmarks/inference.py [--device cpu|cuda] [--images N] [--short-edge 800]

R50-FPN with random weights on real images, score threshold 0 (100 detections per image), both libraries in
turn on the same image, medians over the images after one of warm-up. Checked in the same run: our model's
results are the same, byte for byte, by way of bitmasks through Detectron2's evaluator and by way of RLE
through ours; and our detections are Detectron2's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mask_overhead import build
from tabulate import tabulate
from torch import nn

from mrcnn_plugin.evaluation import coco_evaluation as ours

# isort: split

from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.evaluation import coco_evaluation as detectron2

STAGES = ("backbone", "RPN", "box", "mask", "post-processing")


class Stages:
    """Seconds that a model spends in each stage; what `inference` does beside them is post-processing."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.cuda = model.device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        heads = model.roi_heads
        model.backbone.forward = self._timed("backbone", model.backbone.forward)
        model.proposal_generator.forward = self._timed("RPN", model.proposal_generator.forward)
        heads._forward_box = self._timed("box", heads._forward_box)
        heads._forward_mask = self._timed("mask", heads._forward_mask)

    def _timed(self, stage: str, call: Callable) -> Callable:
        def timed(*args, **kwargs):
            with self._measure(stage):
                return call(*args, **kwargs)

        return timed

    @contextlib.contextmanager
    def _measure(self, stage: str) -> Iterator[None]:
        if self.cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        yield
        if self.cuda:
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - start

    @torch.no_grad()
    def run(self, image: dict, to_json: Callable) -> tuple[dict[str, float], list[dict]]:
        """Seconds by stage and the image's COCO results; writing masks as RLE counts as post-processing."""
        self.seconds.clear()
        with self._measure("total"):
            output = self.model.inference([image])[0]["instances"]
            results = to_json(output, image["image_id"])
        seconds = dict(self.seconds)
        inside = sum(seconds[stage] for stage in STAGES if stage in seconds)
        seconds["post-processing"] = seconds["total"] - inside
        return seconds, results


def load_images(dataset: str, count: int, short_edge: int) -> list[dict]:
    mapper = DatasetMapper(False, augmentations=[T.ResizeShortestEdge(short_edge, 1333)], image_format="BGR")
    dicts = get_detection_dataset_dicts(dataset, filter_empty=False)
    if not dicts:
        raise SystemExit(f"{dataset} holds no image")
    return [mapper(one) for one in dicts[:count]]


@torch.no_grad()
def same_results_by_both_routes(model: nn.Module, images: list[dict]) -> tuple[int, int]:
    """Results of all images, and those in which bitmasks and RLE give other bytes."""
    texts = {}
    routes = {"bitmask": detectron2.instances_to_coco_json, "rle": ours.instances_to_coco_json}
    for mask_format, to_json in routes.items():
        model.mask_format = mask_format
        outputs = ((model.inference([image])[0]["instances"], image["image_id"]) for image in images)
        # Both write one file for all images; one result a line shows where they differ.
        texts[mask_format] = [
            json.dumps(r) for out, image_id in outputs for r in to_json(out.to("cpu"), image_id)
        ]
    model.mask_format = "rle"
    if len(texts["bitmask"]) != len(texts["rle"]):
        raise AssertionError("the two routes give different numbers of results")
    return len(texts["rle"]), sum(a != b for a, b in zip(texts["bitmask"], texts["rle"]))


def worst_difference(mine: list[dict], theirs: list[dict]) -> tuple[float, float]:
    """Largest difference of box coordinates (pixels) and scores of two lists in the same order."""
    if len(mine) != len(theirs):
        raise AssertionError(f"{len(mine)} detections of ours, {len(theirs)} of Detectron2's")
    box = max((abs(a - b) for m, t in zip(mine, theirs) for a, b in zip(m["bbox"], t["bbox"])), default=0.0)
    return box, max((abs(m["score"] - t["score"]) for m, t in zip(mine, theirs)), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dataset", default="coco_2017_val")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--short-edge", type=int, default=800)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    images = load_images(args.dataset, args.images, args.short_edge)
    models = build(args.device)
    for model in models.values():
        model.roi_heads.box_predictor.test_score_thresh = 0.0
    models["ours"].mask_format = "rle"
    writers = {
        "ours": ours.instances_to_coco_json,
        "Detectron2": lambda output, i: detectron2.instances_to_coco_json(output.to("cpu"), i),
    }
    stages = {name: Stages(model) for name, model in models.items()}
    seconds: dict[str, list[dict]] = {name: [] for name in models}
    worst = (0.0, 0.0)
    for turn, image in enumerate([images[0], *images]):
        results = {}
        for name in models if turn % 2 else reversed(models):
            measured, results[name] = stages[name].run(image, writers[name])
            if turn > 0:
                seconds[name].append(measured)
        worst = tuple(map(max, worst, worst_difference(results["ours"], results["Detectron2"])))
        print(f"\r{turn}/{len(images)} images", end="", file=sys.stderr, flush=True)
    count, unequal = same_results_by_both_routes(models["ours"], images)

    print(
        f"\n{len(images)} images of {args.dataset}, short edge {args.short_edge}, {args.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    columns = [*STAGES, "total"]
    medians = {
        name: {c: 1e3 * statistics.median(one[c] for one in rows) for c in columns}
        for name, rows in seconds.items()
    }
    table = [[name, *(f"{medians[name][c]:.1f}" for c in columns)] for name in medians]
    ratios = [f"{medians['Detectron2'][c] / medians['ours'][c]:.2f}" for c in columns]
    print(tabulate([*table, ["ratio", *ratios]], ["ms per image", *columns], tablefmt="github"))
    print(f"{count} results of ours: {unequal} differ between bitmasks and RLE")
    print(f"ours against Detectron2's: boxes within {worst[0]:.1e} px, scores within {worst[1]:.1e}")
    if args.json:
        args.json.write_text(
            json.dumps({"medians_ms": medians, "results": count, "unequal": unequal}, indent=1)
        )
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
