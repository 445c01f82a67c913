"""Command line of the drawn street scenes: python -m mrcnn_plugin.data.synthetic.cityscapes --help."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mrcnn_plugin.data.cityscapes import FOLDER, SPLITS, StreetSet, ensure_drawn
from mrcnn_plugin.data.registration import datasets_root


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.data.synthetic.cityscapes",
        description="Draw street scenes in Cityscapes' layout. A set drawn with the same options is kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument(
        "--root", default=os.path.join(datasets_root(), FOLDER), help="has leftImg8bit, gtFine"
    )
    result.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS), help="which")
    counts = ", ".join(f"{count} for {split}" for split, (count, _) in SPLITS.items())
    result.add_argument(
        "--images", type=int, default=argparse.SUPPRESS, help=f"images per split (default: {counts})"
    )
    result.add_argument("--height", type=int, default=StreetSet.height, help="of the images, pixels")
    result.add_argument("--width", type=int, default=StreetSet.width, help="of the images, pixels")
    result.add_argument("--seed", type=int, default=0, help="the same seed draws the same set")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws what the command line asks for; the exit status."""
    args = vars(parser().parse_args(arguments))
    root, splits = args.pop("root"), args.pop("splits")
    try:
        for split in splits:
            image_dir, gt_dir = ensure_drawn(root, StreetSet(split, **args))
            print(f"images: {image_dir}  ground truth: {gt_dir}")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
