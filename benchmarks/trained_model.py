"""A trained model in every form in which it can run: AP, seconds, memory.

    python benchmarks/trained_model.py --run FOLDER --annotations FILE.json:FOLDER [--files FILE ...]
        [--pictures N] [--json FILE]

Detectron2's own model with the run's weights, ours, its optimized copy, in bfloat16 too where that is what
"auto" chooses, and FILEs that export.py wrote of the same run, picture by picture in turn, beginning with
another each time. Seconds are medians over the pictures, from the network's input to COCO results with masks
as RLE; the first picture of each size that a form sees is seen twice, and counted the second time. AP is
COCO's, of the same results.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import contextlib
import copy
import io
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import process_memory
import torch
from detectron2.config import instantiate
from end_to_end import Contestant, of_detectron2, of_ours, optimized_copies
from model_zoo import detectron2_model
from pycocotools.coco import COCO
from runtimes import NAMES, run_of
from speed_chart import add
from tabulate import tabulate

from mrcnn_plugin.evaluation import evaluate_coco
from mrcnn_plugin.predict import Predictor, build_predictor, run_files
from mrcnn_plugin.runtime import FORMATS
from mrcnn_plugin.runtime import load as load_file


def contestants(run: str, files: Sequence[Path]) -> tuple[Predictor, list[Contestant]]:
    predictor = build_predictor(*run_files(run), threshold=0.05, device="cpu", optimized=False)
    ours = predictor.model
    ours.mask_format = "rle"
    theirs = instantiate(detectron2_model(copy.deepcopy(predictor.config.raw.model))).eval()
    theirs.load_state_dict(ours.state_dict())
    models = [
        Contestant("Detectron2", of_detectron2(theirs)),
        Contestant("ours", of_ours(ours)),
        *optimized_copies(ours),
    ]
    formats = {ending: format for format, (ending, _) in FORMATS.items()}
    for file in files:
        model = load_file(file, threads=torch.get_num_threads())
        precision = model.description.precision
        name = NAMES[formats[file.suffix]] + ("" if precision == "fp32" else f" {precision}")
        models.append(Contestant(name, run_of(model)))
    return predictor, models


@torch.no_grad()
def run_all(
    models: Sequence[Contestant], pictures: Sequence[tuple[int, dict]]
) -> tuple[dict[str, list[dict]], dict[str, list[float]], dict[str, float]]:
    """Of each contestant its results, the seconds of every picture, and its peak of memory beyond in MB."""
    results: dict[str, list[dict]] = {model.name: [] for model in models}
    seconds: dict[str, list[float]] = {model.name: [] for model in models}
    beyond = dict.fromkeys(results, 0.0)
    seen: set[torch.Size] = set()
    for turn, (image_id, picture) in enumerate(pictures):
        shift = turn % len(models)
        for model in [*models[shift:], *models[:shift]]:
            if picture["image"].shape not in seen:
                model.run([picture])
            before = process_memory.start_peak()
            start = time.perf_counter()
            found = model.run([picture])[0]
            seconds[model.name].append(time.perf_counter() - start)
            beyond[model.name] = max(beyond[model.name], (process_memory.peak() - before) / process_memory.MB)
            results[model.name] += [result | {"image_id": image_id} for result in found]
        seen.add(picture["image"].shape)
        print(f"\r  picture {turn + 1} of {len(pictures)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results, seconds, beyond


def average_precision(
    truth: COCO, results: list[dict], image_ids: list[int], max_dets: int, ids: dict[int, int]
) -> list[float]:
    """AP of boxes and of masks, in percent."""
    results = [result | {"category_id": ids[result["category_id"]]} for result in results]
    values = []
    for task in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            scores = evaluate_coco(truth, results, task, img_ids=image_ids, max_dets=(1, 10, max_dets))
        values.append(100 * float(scores.stats[0]))
    return values


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="FOLDER", help="of train_net.py")
    parser.add_argument("--annotations", required=True, metavar="FILE.json:FOLDER")
    parser.add_argument("--files", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--pictures", type=int, help="only the first N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table is added to what it holds")
    args = parser.parse_args()
    predictor, models = contestants(args.run, args.files)
    annotations, _, folder = args.annotations.rpartition(":")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
    images = truth.loadImgs(truth.getImgIds())[: args.pictures]
    pictures = [(image["id"], predictor.read(str(Path(folder, image["file_name"])))[0]) for image in images]
    max_dets = predictor.config.expected_of_data().max_dets or 100
    to_contiguous = predictor.metadata.thing_dataset_id_to_contiguous_id
    ids = {contiguous: dataset for dataset, contiguous in to_contiguous.items()}
    results, seconds, beyond = run_all(models, pictures)
    first = statistics.median(seconds[models[0].name])
    rows = []
    for model in models:
        box, mask = average_precision(truth, results[model.name], [i for i, _ in pictures], max_dets, ids)
        median = statistics.median(seconds[model.name])
        numbers = (f"{first / median:.2f}", f"{beyond[model.name]:.0f}", f"{box:.2f}", f"{mask:.2f}")
        rows.append([model.name, f"{median:.3f}", *numbers])
    columns = ["", "s per picture", "ratio", "MB beyond", "box AP", "mask AP"]
    threads = torch.get_num_threads()
    print(f"CPU, {threads} threads, torch {torch.__version__}, {len(pictures)} pictures\n")
    print(tabulate(rows, columns, tablefmt="github", disable_numparse=True))
    if args.json:
        add(args.json, ["trained on real pictures"], columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
