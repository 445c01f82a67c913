"""The body of predict.py: images in, overlays and one COCO-format JSON out."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from PIL import Image
from tqdm import tqdm

from mrcnn_plugin.atomic_files import replacing, write_atomically
from mrcnn_plugin.compat.warnings import silence_warnings
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.reporting.pictures import class_name, draw_predictions

from .exported import ExportedPredictor
from .predictor import Predictor, build_predictor, run_files

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}


def argument_parser() -> argparse.ArgumentParser:
    """The command line of predict.py."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Detect objects in images: an overlay of each, and one COCO-format predictions.json.",
        epilog="Exit status: 0; 1 if an image could not be read; 2 if the command line is wrong.",
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE", help="image files, folders, or quoted globs")
    parser.add_argument("--run", metavar="FOLDER", help="a run folder of train_net.py, for both")
    parser.add_argument("--model", metavar="FILE", help="a file that export.py wrote, for all of it")
    parser.add_argument("--config-file", metavar="FILE", help="LazyConfig (.py) or YAML file, or a zoo name")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint (default: the run's, or the config's)")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, metavar="S", help="in [0, 1]; default 0.5"
    )
    parser.add_argument("--output", default="predictions", metavar="FOLDER", help="default: predictions")
    parser.add_argument("--device", help="cuda, cuda:1, cpu, ...; chosen when not given")
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    return parser


def find_images(inputs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Image files of the given files, folders (not their subfolders) and globs, each once, in order.

    Returns:
        The files, and those of `inputs` that are nothing.
    """
    files, missing = [], []
    for given in inputs:
        if os.path.isdir(given):
            found = sorted(str(p) for p in Path(given).iterdir() if p.suffix.lower() in _SUFFIXES)
        elif os.path.exists(given):
            found = [given]
        else:
            found = sorted(p for p in glob.glob(given, recursive=True) if os.path.isfile(p))
        files += found
        if not found:
            missing.append(given)
    return list(dict.fromkeys(files)), missing


def image_ids(files: Sequence[str]) -> list[int]:
    """The numbers in the file names where all are distinct numbers, as COCO's are; else 1, 2, ..."""
    stems = [Path(file).stem for file in files]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(files) + 1))


def _overlay_paths(files: Sequence[str], folder: str) -> Iterator[str]:
    """A PNG of the image's name for each; images of one name from several folders are numbered."""
    seen: Counter[str] = Counter()
    for file in files:
        stem = Path(file).stem
        seen[stem] += 1
        yield os.path.join(folder, f"{stem}.png" if seen[stem] == 1 else f"{stem}_{seen[stem]}.png")


def main(args: argparse.Namespace) -> int:
    """Runs what `argument_parser` describes.

    Returns:
        1 if an image was missing or broken, else 0.

    Raises:
        ConfigError, DatasetError: the command line is wrong.
    """
    given = [name for name in ("run", "config_file", "model") if getattr(args, name)]
    if len(given) != 1:
        raise ConfigError(
            "give either --run FOLDER, or --config-file FILE with --weights FILE, or --model FILE"
        )
    silence_warnings()
    files, missing = find_images(args.inputs)
    if not files:
        raise ConfigError(f"no images found: {', '.join(missing or args.inputs)}")
    setup_logger(name="fvcore")
    predictor = _predictor(args)
    os.makedirs(args.output, exist_ok=True)
    failed = [f"{given}: no such file or folder" for given in missing]
    results = []
    bar = tqdm(files, desc="predicting", unit="image", file=sys.stderr, disable=None)
    for file, image_id, overlay in zip(bar, image_ids(files), _overlay_paths(files, args.output)):
        try:
            instances, image = predictor.predict(file)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            failed.append(f"{file}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            tqdm.write(f"skipped {failed[-1]}", file=sys.stderr)
            continue
        results += predictor.coco_results(instances, image_id, file)
        picture = Image.fromarray(draw_predictions(image, instances, predictor.metadata))
        with replacing(overlay) as part:
            picture.save(part, format="PNG")
        tqdm.write(f"{file}: {_summary(instances, predictor.metadata)} -> {overlay}")
    path = os.path.join(args.output, "predictions.json")
    write_atomically(Path(path), json.dumps(results).encode())
    print(f"{len(results)} instances in {len(files) - len(failed) + len(missing)} images: {path}")
    if failed:
        print(f"{len(failed)} could not be read:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


def _predictor(args: argparse.Namespace) -> Predictor | ExportedPredictor:
    """What the command line names.

    Raises:
        ConfigError: it is not usable, or something is given that an exported model does not take.
    """
    if args.model:
        for option in ("weights", "device", "opts"):
            if getattr(args, option):
                raise ConfigError(f"--{option} does not go with --model: the file has its weights in it")
        return ExportedPredictor(args.model, args.score_threshold)
    config_file, weights = run_files(args.run) if args.run else (args.config_file, "")
    return build_predictor(
        config_file,
        args.weights or weights,
        threshold=args.score_threshold,
        device=args.device or "",
        opts=args.opts,
    )


def _summary(instances: Instances, metadata: Metadata) -> str:
    counts = Counter(class_name(index, metadata) for index in instances.pred_classes.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
