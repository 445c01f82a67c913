"""Boundary AP of a finished evaluation: how well masks follow outlines, which mask AP hardly sees.

    python -m mrcnn_plugin.evaluation.boundary output/demo/inference/coco_instances_results.json shapes_val

Boundary IoU (Cheng et al., arXiv 2103.16562) compares only what lies within a band along the outlines.
Scored by faster-coco-eval.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from .coco_evaluation import evaluate_coco

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def mask_quality(
    ground_truth: COCO, results: list[dict], *, dilation_ratio: float = 0.02
) -> dict[str, dict[str, float]]:
    """Mask AP and boundary AP of the same predictions.

    Args:
        ground_truth: pycocotools' COCO of the annotations.
        results: COCO result dicts with masks, at least one.
        dilation_ratio: width of the band along an outline, inwards, as a part of the image's diagonal and at
            least a pixel.

    Returns:
        {"segm": ..., "boundary": ...}, each {"AP": ..., "AP50": ..., "AP75": ..., "APs": ..., "APm": ...,
        "APl": ...} in percent; -100 where there is no object of that size.
    """
    quality = {}
    for task in ("segm", "boundary"):
        with contextlib.redirect_stdout(None):
            stats = evaluate_coco(ground_truth, results, task, dilation_ratio=dilation_ratio).stats
        quality[task] = {name: 100 * float(value) for name, value in zip(METRICS, stats)}
    return quality


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.evaluation.boundary",
        description="Mask AP and boundary AP of a results file, as JSON.",
    )
    result.add_argument("results", help="coco_instances_results.json of a run folder's inference/")
    result.add_argument("annotations", help="COCO annotations: a JSON file, or a data set's name")
    result.add_argument(
        "--dilation-ratio",
        type=float,
        default=0.02,
        metavar="R",
        help="width of the band along an outline, as a part of the image's diagonal; default 0.02",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints {"segm": ..., "boundary": ...} in percent; the exit status."""
    args = parser().parse_args(arguments)
    if importlib.util.find_spec("faster_coco_eval") is None:
        print("error: boundary AP needs faster-coco-eval: pip install faster-coco-eval", file=sys.stderr)
        return 1
    annotations = args.annotations
    if not os.path.isfile(annotations):
        annotations = MetadataCatalog.get(annotations).get("json_file", annotations)
    try:
        with open(args.results) as file:
            results = json.load(file)
        with contextlib.redirect_stdout(None):
            ground_truth = COCO(annotations)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not all("segmentation" in result for result in results) or not results:
        print(f"error: {args.results} holds no masks", file=sys.stderr)
        return 1
    print(json.dumps(mask_quality(ground_truth, results, dilation_ratio=args.dilation_ratio), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
