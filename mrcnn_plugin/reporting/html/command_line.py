"""report.html of a COCO results file of any framework, or anew of a finished run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from mrcnn_plugin.errors import DatasetError

from .page import write_report
from .source import Source

_EPILOG = """\
RESULTS.json has COCO's format: a list of {"image_id", "category_id", "score"} with "bbox", "segmentation" or
"keypoints". ANNOTATIONS.json is the ground truth that they are of.

  python -m mrcnn_plugin.reporting results.json instances_val2017.json --images val2017
  python -m mrcnn_plugin.reporting run/inference/coco_instances_results.json val.json --run run

Exit status: 0; 2 if a file cannot be used.
"""


def argument_parser() -> argparse.ArgumentParser:
    """The command line of `python -m mrcnn_plugin.reporting`."""
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.reporting",
        description="A page that explains the AP of detections: one HTML file, which needs no network.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS.json", help="detections in COCO's results format")
    parser.add_argument("annotations", metavar="ANNOTATIONS.json", help="ground truth in COCO's format")
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images; without it there are no pictures"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="default: report.html, in the run folder if there is one"
    )
    parser.add_argument(
        "--run", metavar="FOLDER", help="a run folder, for its training curves and its config"
    )
    parser.add_argument(
        "--max-dets",
        type=int,
        default=100,
        metavar="N",
        help="detections of a class in an image; default COCO's 100",
    )
    parser.add_argument(
        "--sigmas",
        type=float,
        nargs="+",
        default=(),
        metavar="S",
        help="OKS sigma of each keypoint, if not COCO's 17",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report; returns the exit status."""
    args = argument_parser().parse_args(arguments)
    setup_logger(name="mrcnn_plugin")
    output = args.output or os.path.join(args.run or "", "report.html")
    try:
        write_report(source_of(args), output)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Report: {output} ({os.path.getsize(output) / 1e6:.1f} MB)")
    return 0


def source_of(args: argparse.Namespace) -> Source:
    """Reads the files that the command line names.

    Raises:
        DatasetError: one of them cannot be used.
    """
    for folder in filter(None, (args.images, args.run)):
        if not os.path.isdir(folder):
            raise DatasetError(f"{folder}: no such folder")
    source = Source(
        title=f"Run {Path(args.run).resolve().name}"
        if args.run
        else f"Detections on {Path(args.annotations).name}",
        image_root=args.images,
        max_dets=args.max_dets,
        sigmas=args.sigmas,
        facts=[("results", args.results), ("annotations", args.annotations)],
    )
    source.read_detections(args.results, args.annotations)
    if args.run:
        source.read_run(args.run)
    source.summarize(Path(args.annotations).name, args.annotations)
    return source
