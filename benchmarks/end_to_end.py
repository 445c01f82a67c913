"""Whole models, from tensor to scored results: Detectron2's, torchvision's, ours and its faster forms.

    python benchmarks/end_to_end.py --images FOLDER [--only NAME ...] [--edges 800 400] [--batches 1 4]
        [--rounds 7] [--pictures 4] [--detections 100] [--memory] [--exported FOLDER] [--output FILE.md]
        [--json FILE]
    python benchmarks/end_to_end.py --images FOLDER --only NAME ... --export FOLDER
    python benchmarks/end_to_end.py --json FILE --chart FILE.png

Every model and its peers have the same weights, random ones, and see the same pictures in turn, in rounds
that begin with another of them each time; seconds are medians over the rounds after one of warm-up. A run
ends with masks as COCO's RLE, each library by its own road. Scores have no threshold: every picture has
`--detections` of them, by default 100, the most work for the heads. "beyond" is the peak of the memory
beyond what was there before, which shows nothing of what a runtime keeps from run to run; `--memory` adds the
peak of a process that runs one of them alone, twice, weights and libraries included. Checked in the same run,
against Detectron2's model: numbers of detections, classes, boxes, scores, and the pixels of masks. An
optimized copy in bfloat16 takes part where `mrcnn_plugin.optimize` would choose that.

`--export` writes the cases' models as ONNX and OpenVINO files, float32 and 8 bits (calibrated on the
pictures), with their weights; `--exported` lets these files take part, one picture at a time. What bfloat16
and 8 bits do to random weights says nothing, so that but for their number, their results are not compared
here: trained_model.py has their AP.
Several runs may add to one `--json`; `--chart` draws what is in it.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import contextlib
import copy
import gc
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import process_memory
import torch
import torchvision
from detectron2.config import instantiate
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.evaluation.coco_evaluation import instances_to_coco_json as detectron2_json
from pycocotools import mask as mask_util
from runtimes import exported, weights_of, write
from speed_chart import add, draw
from tabulate import tabulate
from torch import nn
from whole_models import CASES, LONGEST, Case, as_if_trained, finding, of_torchvision

from mrcnn_plugin import optimize
from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.checkpoint.convert import convert_torchvision
from mrcnn_plugin.evaluation import instances_to_coco_json
from mrcnn_plugin.optimization import chosen_precision

BOX_TOLERANCE, SCORE_TOLERANCE = 1e-2, 1e-3
# Of detections that have a counterpart, and of pixels of masks that agree.
LEAST_MATCHED, LEAST_PIXELS = 0.98, 1 - 1e-3

# Takes pictures, each {"image": uint8 (3, H, W), "height", "width"}; returns each one's results for COCO.
Run = Callable[[list[dict]], list[list[dict]]]


@dataclass
class Contestant:
    name: str
    run: Run
    # Peers whose rounding and pasting differ by design are compared by their boxes alone, more loosely; those
    # with None, of a lower precision, are compared by the number of detections.
    exact: bool | None = True
    # Of exported files: they take one picture at a time.
    batches: bool = True


def of_detectron2(model: nn.Module) -> Run:
    return lambda images: [detectron2_json(r["instances"], 0) for r in model(images)]


def of_ours(model: nn.Module) -> Run:
    return lambda images: [instances_to_coco_json(r["instances"], 0) for r in model(images)]


@torch.no_grad()
def spread_scores(model: nn.Module, run: Run, picture: dict) -> None:
    """Scales the class logits, in place, to a deviation of 2: scores of exactly 1 would tie in any order."""
    for predictor in [module for name, module in model.named_modules() if name.endswith("cls_score")]:
        with _outputs(predictor) as logits:
            run([picture])
        predictor.weight *= 2 / torch.cat(logits).std()


@contextlib.contextmanager
def _outputs(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a module returns, call by call."""
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def torchvision_run(model: nn.Module) -> Run:
    def run(images: list[dict]) -> list[list[dict]]:
        outputs = model([image["image"].float() / 255 for image in images])
        results = []
        for output in outputs:
            bits = (output["masks"][:, 0] > 0.5).numpy()
            rles = mask_util.encode(np.asfortranarray(bits.transpose(1, 2, 0), dtype=np.uint8))
            boxes = torchvision.ops.box_convert(output["boxes"], "xyxy", "xywh").tolist()
            rows = zip(output["scores"].tolist(), boxes, rles)
            results.append([{"score": s, "bbox": b, "segmentation": r, "category_id": 0} for s, b, r in rows])
        return results

    return run


def contestants(
    case: Case, edge: int, detections: int, picture: dict, weights: Path | None = None
) -> tuple[list[Contestant], nn.Module]:
    """The peer first: the others are compared with it; and our model. Class scores are spread on `picture`.

    Args:
        weights: of our model, in place of random ones.
    """
    torch.manual_seed(0)
    config = case.config()
    if case.theirs is None:
        # All of torchvision's rows but the background: without some, the others' scores would be higher.
        config.roi_heads.num_classes = 90
    ours = finding(as_if_trained(instantiate(copy.deepcopy(config))), detections)
    ours.mask_format = "rle"
    if case.theirs is None:
        peer = of_torchvision(edge, detections)
        spread_scores(peer, torchvision_run(peer), picture)
        ours.load_state_dict(convert_torchvision(peer.state_dict(), labels=range(1, 91)), strict=True)
        first = [Contestant("torchvision", torchvision_run(peer))]
    else:
        if weights is None:
            spread_scores(ours, of_ours(ours), picture)
        else:
            ours.load_state_dict(torch.load(weights, weights_only=True))
        theirs = finding(case.theirs(config), detections)
        theirs.load_state_dict(ours.state_dict())
        first = [Contestant("Detectron2", of_detectron2(theirs))]
    exact = case.theirs is not None
    models = [*first, Contestant("ours", of_ours(ours), exact), *optimized_copies(ours, exact)]
    return models, ours


def optimized_copies(model: nn.Module, exact: bool = True) -> list[Contestant]:
    """In float32, and in bfloat16 where that is what "auto" chooses."""
    copies = [Contestant("optimized", of_ours(optimize(model)), exact)]
    if chosen_precision("auto") == "bfloat16":
        low = of_ours(optimize(model, precision="bfloat16"))
        copies.append(Contestant("optimized bfloat16", low, None))
    return copies


def load(folder: Path, count: int, edge: int, image_format: str) -> list[dict]:
    """The first pictures of a folder as the test loader gives them."""
    suffixes = {".jpg", ".jpeg", ".png"}
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)[:count]
    if not files:
        raise SystemExit(f"--images {folder}: no .jpg or .png in it")
    resize = T.ResizeShortestEdge(edge, round(edge * LONGEST))
    pictures = []
    for file in files:
        pixels = detection_utils.read_image(str(file), format=image_format)
        resized = resize.get_transform(pixels).apply_image(pixels)
        image = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        pictures.append({"image": image, "height": image.shape[1], "width": image.shape[2]})
    return pictures


def compare(expected: list[dict], results: list[dict], exact: bool) -> tuple[float, float]:
    """Largest difference of coordinates (pixels) and the share of mask pixels that differ; raises beyond the
    tolerances. Detections whose scores are nearly equal may change places, or each other at the end."""
    if not expected or len(results) != len(expected):
        raise AssertionError(f"{len(results)} detections, {len(expected)} of the peer")
    boxes, others = (torch.tensor([r["bbox"] for r in rs], dtype=torch.float64) for rs in (expected, results))
    scores, other_scores = (torch.tensor([r["score"] for r in rs]) for rs in (expected, results))
    distance = (boxes[:, None] - others).abs().amax(dim=2)
    if exact:
        classes, other_classes = (torch.tensor([r["category_id"] for r in rs]) for rs in (expected, results))
        distance += 1e6 * (classes[:, None] != other_classes)
    distance += 1e6 * ((scores[:, None] - other_scores).abs() > SCORE_TOLERANCE)
    nearest = distance.argmin(dim=1)
    apart = distance[torch.arange(len(boxes)), nearest]
    matched = apart <= (BOX_TOLERANCE if exact else 0.5)
    least = LEAST_MATCHED if exact else 0.9
    if matched.float().mean() < least:
        raise AssertionError(f"{int(matched.sum())} of {len(boxes)} detections have a counterpart")
    pixels = 0.0
    if exact and "segmentation" in expected[0]:
        pairs = [(i, int(nearest[i])) for i in range(len(boxes)) if matched[i]]
        masks = [
            [mask_util.decode(r["segmentation"]) for r in rs]
            for rs in ([expected[i] for i, _ in pairs], [results[j] for _, j in pairs])
        ]
        pixels = float(np.mean([np.mean(a != b) for a, b in zip(*masks)]))
        if pixels > 1 - LEAST_PIXELS:
            raise AssertionError(f"{pixels:.2%} of the masks' pixels differ")
    return float(apart[matched].max()), pixels


def check_counts(name: str, pairs: Sequence[tuple[list[dict], list[dict]]]) -> None:
    """Raises where something found less, or more, than the peer: it had another amount of work."""
    for expected, results in pairs:
        if len(expected) != len(results):
            raise AssertionError(f"{name}: {len(results)} detections, {len(expected)} of the peer")


@torch.no_grad()
def measure(models: Sequence[Contestant], pictures: list[dict], batch: int, rounds: int) -> list[list[str]]:
    """A row for each contestant: seconds per picture, times as fast as the first, memory, differences."""
    batches = [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
    seconds: dict[str, list[float]] = {model.name: [] for model in models}
    results: dict[str, list[list[dict]]] = {}
    beyond: dict[str, float] = {}
    for turn in range(rounds + 1):
        shift = turn % len(models)
        for model in [*models[shift:], *models[:shift]]:
            gc.collect()
            before = process_memory.start_peak()
            start = time.perf_counter()
            results[model.name] = [result for one in batches for result in model.run(one)]
            spent = (time.perf_counter() - start) / len(pictures)
            if turn > 0:
                seconds[model.name].append(spent)
                extra = (process_memory.peak() - before) / process_memory.MB
                beyond[model.name] = max(beyond.get(model.name, 0.0), extra)
        print(f"\r  round {turn} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    first, rows = models[0].name, []
    for model in models:
        median = statistics.median(seconds[model.name])
        pairs = list(zip(results[first], results[model.name]))
        box = pixels = math.nan
        if model.exact is not None:
            differences = [compare(*pair, model.exact) for pair in pairs]
            box, pixels = (max(values) for values in zip(*differences))
        else:
            check_counts(model.name, pairs)
        ratio = statistics.median(seconds[first]) / median
        rows.append(
            [
                model.name,
                f"{median:.3f}",
                f"{ratio:.2f}",
                f"{beyond[model.name]:.0f}",
                "" if math.isnan(box) else f"{box:.0e}",
                "" if math.isnan(pixels) else f"{pixels:.0e}",
            ]
        )
    return rows


def all_contestants(name: str, args: argparse.Namespace, edge: int, pictures: list[dict]) -> list[Contestant]:
    """Those of a case, and its exported files."""
    weights = args.exported and weights_of(args.exported, name)
    models, _ = contestants(CASES[name], edge, args.detections, pictures[0], weights)
    if args.exported:
        files = exported(args.exported, name, pictures)
        models += [Contestant(label, run, exact or None, False) for label, exact, run in files]
    return models


def memory_alone(name: str, args: argparse.Namespace, edge: int, chosen: str, threads: int) -> float:
    """MB at the peak of this process, which should be a new one, while one contestant runs twice."""
    torch.set_num_threads(threads)
    pictures = load(args.images, 1, edge, CASES[name].config().input_format)
    files = exported(args.exported, name, pictures, only=chosen) if args.exported else iter(())
    run = next((run for _, _, run in files), None)
    if run is None:
        models = all_contestants(name, argparse.Namespace(**vars(args) | {"exported": None}), edge, pictures)
        run = {model.name: model.run for model in models}[chosen]
        del models
    process_memory.settled()
    process_memory.start_peak()
    with torch.no_grad():
        for _ in range(2):
            run(pictures)
    return process_memory.peak() / process_memory.MB


def memory_of_each(name: str, args: argparse.Namespace, edge: int, names: Sequence[str]) -> list[float]:
    """`memory_alone` in a process for each."""
    sizes = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for one in names:
            sizes.append(pool.apply(memory_alone, (name, args, edge, one, torch.get_num_threads())))
    return sizes


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--edges", type=int, nargs="+", default=[800, 400], help="shorter side, pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--detections", type=int, default=100, help="of each picture")
    parser.add_argument("--memory", action="store_true", help="of a process of each contestant's own, too")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="written after each table, too")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the cases' files only")
    parser.add_argument("--exported", type=Path, metavar="FOLDER", help="with the files that --export wrote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="rows are added to what it holds")
    parser.add_argument("--chart", type=Path, metavar="FILE.png", help="only draw what --json holds")
    args = parser.parse_args(arguments)
    if args.chart and not args.json:
        parser.error("--chart needs --json")
    if not args.chart and not args.images:
        parser.error("--images is needed")
    return args


def export(args: argparse.Namespace) -> int:
    """Writes the cases' models, as they are at the first of the edges."""
    for name in args.only:
        color_order = CASES[name].config().input_format
        pictures = load(args.images, args.pictures, args.edges[0], color_order)
        _, model = contestants(CASES[name], args.edges[0], args.detections, pictures[0])
        write(args.export, name, model, color_order, pictures)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if args.chart:
        draw(json.loads(args.json.read_text()), args.chart)
        return 0
    if args.export:
        return export(args)
    threads = torch.get_num_threads()
    text = (
        f"CPU, {threads} threads, torch {torch.__version__}, {args.pictures} pictures, {args.rounds} rounds\n"
    )
    print(text)
    columns = ["", "s per picture", "ratio", "MB beyond", "box, px", "pixels differ"]
    for name in args.only:
        for edge in args.edges:
            pictures = load(args.images, args.pictures, edge, CASES[name].config().input_format)
            models = all_contestants(name, args, edge, pictures)
            for batch in args.batches:
                taking_part = [model for model in models if batch == 1 or model.batches]
                rows, titles = measure(taking_part, pictures, batch, args.rounds), columns
                if args.memory:
                    titles = [*columns, "MB alone"]
                    alone = memory_of_each(name, args, edge, [model.name for model in taking_part])
                    rows = [[*row, f"{size:.0f}"] for row, size in zip(rows, alone)]
                if args.json:
                    add(args.json, [f"{name}, {edge} px, batch {batch}"], titles, rows)
                table = tabulate(rows, titles, tablefmt="github", disable_numparse=True)
                part = f"\n{name}, {edge} px, batch {batch}\n\n{table}\n"
                print(part, flush=True)
                text += part
                if args.output:
                    write_atomically(args.output, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
