"""Draws the built-in data: `python -m mrcnn_plugin.data.synthetic.shapes --help`.

Circles, squares, triangles and stars with instance masks, or articulated stick figures with masks and
COCO's 17 keypoints, in COCO's format, from a seed. Detectron2 knows the sets as shapes_train, shapes_val,
shapes_keypoints_train and shapes_keypoints_val and draws them when they are first loaded.
"""

from __future__ import annotations

import argparse
import logging
import sys

from mrcnn_plugin.data.registration import datasets_root

from .drawing import Sample, draw_sample
from .generator import KINDS, SPLITS, SetParameters, SetPaths, ensure_set

__all__ = ["Sample", "SetParameters", "SetPaths", "draw_sample", "ensure_set", "main"]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.data.synthetic.shapes",
        description="Draw the built-in data sets in COCO format. A set drawn with the same options is kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument("--root", default=datasets_root(), help="folder of data sets ($DETECTRON2_DATASETS)")
    result.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="which data")
    result.add_argument(
        "--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS), help="which splits"
    )
    counts = ", ".join(f"{count} for {split}" for split, count in SPLITS.items())
    result.add_argument(
        "--images", type=int, default=argparse.SUPPRESS, help=f"images per split (default: {counts})"
    )
    result.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    result.add_argument("--seed", type=int, default=0, help="the same seed draws the same set")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Draws the sets that the command line asks for; the exit status."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for kind in args.kind:
            for split in args.splits:
                images = getattr(args, "images", None)
                parameters = SetParameters(kind, split, images, args.size, args.seed)
                paths = ensure_set(args.root, kind, split, parameters)
                print(f"{parameters.images} images: {paths.image_root}  annotations: {paths.json_file}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
