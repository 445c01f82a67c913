"""Draws what a config feeds to its model: augmented images with boxes, masks, keypoints and class names.

python -m mrcnn_plugin.data.show --config-file FILE [key=value ...] --output FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path

import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image

from mrcnn_plugin.atomic_files import replacing
from mrcnn_plugin.compat.warnings import silence_warnings
from mrcnn_plugin.config import RunConfig, dataset_metadata, fit_to_dataset, fit_to_device, load_config
from mrcnn_plugin.errors import ConfigError, DatasetError
from mrcnn_plugin.reporting.pictures import class_name, draw_targets

from .resumable_loader import ResumableLoader
from .seeding import seed_generators

# Side of the overview's cells in pixels, and what separates them.
_CELL, _GAP = 320, 6


def argument_parser() -> argparse.ArgumentParser:
    """The command line of `python -m mrcnn_plugin.data.show`."""
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.data.show", description="Draw what a config feeds to its model."
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="LazyConfig (.py) or YAML file, or name"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a PNG each, and overview.png")
    parser.add_argument("--images", type=int, default=12, metavar="N", help="how many; default: 12")
    parser.add_argument("--seed", type=int, default=0, help="of order and augmentation; default: 0")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser


def samples_of(config: RunConfig, number: int, seed: int) -> list[dict]:
    """The first samples that a training with this seed would see, mapped and augmented."""
    seed_generators(seed)
    loader = ResumableLoader(config.build_train_loader(), seed)
    return list(itertools.islice(itertools.chain.from_iterable(loader), number))


def draw_sample(config: RunConfig, sample: dict) -> np.ndarray:
    """A mapped sample as an (H', W', 3) uint8 RGB picture with its targets."""
    image = utils.convert_image_to_rgb(sample["image"].permute(1, 2, 0), config.image_format)
    return draw_targets(np.asarray(image, np.uint8), sample["instances"], dataset_metadata(config))


def overview(pictures: list[np.ndarray]) -> Image.Image:
    """Pictures in a grid, each fitted into a square cell on white."""
    columns = math.ceil(math.sqrt(len(pictures) * 4 / 3))
    rows = math.ceil(len(pictures) / columns)
    step = _CELL + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, rows * step - _GAP), "white")
    for index, picture in enumerate(pictures):
        cell = Image.fromarray(picture)
        cell.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        free = _CELL - cell.width, _CELL - cell.height
        sheet.paste(cell, (column * step + free[0] // 2, row * step + free[1] // 2))
    return sheet


def main(args: argparse.Namespace) -> None:
    """Runs what `argument_parser` describes.

    Raises:
        ConfigError, DatasetError: the command line is wrong, or the data cannot be used.
    """
    if args.images < 1:
        raise ConfigError(f"--images must be at least 1, got {args.images}")
    silence_warnings()
    config = load_config(args.config_file, args.opts)
    fit_to_device(config)
    fit_to_dataset(config)
    config.fit_to_data()
    folder, metadata = Path(args.output), dataset_metadata(config)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, sample in enumerate(samples_of(config, args.images, args.seed)):
        pictures.append(draw_sample(config, sample))
        path = folder / f"{number:03d}_{Path(sample['file_name']).stem}.png"
        with replacing(path) as part:
            Image.fromarray(pictures[-1]).save(part, format="PNG")
        names = [class_name(index, metadata) for index in sample["instances"].gt_classes.tolist()]
        height, width = sample["image"].shape[-2:]
        print(f"{path}: {width} x {height}, {', '.join(names) or 'nothing'}")
    with replacing(folder / "overview.png") as part:
        overview(pictures).save(part, format="PNG")
    print(folder / "overview.png")


if __name__ == "__main__":
    try:
        main(argument_parser().parse_intermixed_args())
    except (ConfigError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
