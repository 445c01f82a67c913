"""The body of export.py: a run in, a file that runs elsewhere out."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from PIL import Image, ImageDraw
from torch import nn

import mrcnn_plugin
from mrcnn_plugin.compat.warnings import silence_warnings
from mrcnn_plugin.config import RunConfig
from mrcnn_plugin.data import metadata_fields
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.ops import library
from mrcnn_plugin.optimization import optimize
from mrcnn_plugin.predict import CHECKPOINTS, Predictor, build_predictor, find_inputs, named_files
from mrcnn_plugin.runtime import FORMATS, ExportedModel, ModelDescription, load

from .aoti import check_aoti
from .formats import WRITERS
from .graph import DetectionGraph
from .parity import OriginalModel, Parity, Tolerance, compare
from .precision import LowerPrecision, requested_precision
from .precision import add_arguments as add_precision_arguments
from .program import trace
from .resize import ShortestEdge
from .stages import first_stage
from .tensorrt import check_file

_MASKS = ("probabilities", "pasted")


def argument_parser() -> argparse.ArgumentParser:
    """The command line of export.py."""
    parser = argparse.ArgumentParser(
        prog="export.py",
        description="Write a whole model, picture in and detections out, as one file, and compare it.",
        epilog="Exit status: 0; 1 if the file's detections differ from the model's, or more AP is lost than "
        "is allowed, and then no file is written; 2 if the command line is wrong.",
    )
    parser.add_argument(
        "--run", metavar="FOLDER", help="a run folder of train_net.py, for config and weights"
    )
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="final", help="which weights of --run; default: final"
    )
    parser.add_argument("--config-file", metavar="FILE", help="LazyConfig (.py) or YAML file, or a zoo name")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint (default: the run's, or the config's)")
    parser.add_argument(
        "--trust-run",
        action="store_true",
        help="let a run folder's config run code that it names; only for folders that you trust as a program",
    )
    parser.add_argument("--format", required=True, choices=list(WRITERS))
    endings = ", ".join(f"{name}: {ending}" for name, (ending, _) in FORMATS.items())
    parser.add_argument("--output", required=True, metavar="PATH", help=f"the file to write ({endings})")
    parser.add_argument(
        "--image-size",
        default="dynamic",
        metavar="HxW|dynamic",
        help="sides in pixels of the pictures that the graph takes; dynamic (default): any",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="resize within the graph, as the config's test mapper does; else whoever calls it resizes",
    )
    parser.add_argument(
        "--masks",
        choices=_MASKS,
        default="probabilities",
        help="of each box, or pasted into the picture (with --resize, or a config that does not resize)",
    )
    parser.add_argument(
        "--score-threshold", type=float, default=0.05, metavar="S", help="least score; default 0.05"
    )
    parser.add_argument(
        "--check-tensorrt",
        action="store_true",
        help="list what of an ONNX file TensorRT's documents say that it does not take; TensorRT is not run",
    )
    parser.add_argument(
        "--images", nargs="*", default=[], metavar="IMAGE", help="to compare on (default: drawn)"
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    add_precision_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs what `argument_parser` describes.

    Returns:
        1 if the exported model differs from the original by more than `Tolerance`, or in lower precision
        loses too much AP, else 0.

    Raises:
        ConfigError, DatasetError: the command line is wrong, or the model cannot be exported.
    """
    if bool(args.run) == bool(args.config_file):
        raise ConfigError("give either --run FOLDER, or --config-file FILE with --weights FILE")
    if library.STATUS["cpu"] is not None:
        raise ConfigError(
            f"a model is traced through the native ops, which are missing: {library.STATUS['cpu']}"
        )
    silence_warnings()
    output = _checked_output(args.output, args.format)
    if args.check_tensorrt and args.format != "onnx":
        raise ConfigError(f"--check-tensorrt reads ONNX files, got --format {args.format}")
    size = _image_size(args.image_size)
    if args.format == "aoti":
        check_aoti(size)
    pictures = _pictures(args.images, size)
    config_file, weights = named_files(args.run, args.checkpoint, args.config_file, args.weights)
    predictor = build_predictor(
        config_file,
        weights,
        threshold=args.score_threshold,
        device="cpu",
        opts=args.opts,
        trusted=args.trust_run,
        optimized=False,
    )
    color_order, resizing = _test_input(predictor.config)
    lower = requested_precision(args, predictor.config, predictor.metadata)
    if args.resize and (size is not None or resizing is None):
        why = "--image-size fixes it" if size else "the config's test mapper does not resize"
        raise ConfigError(f"--resize cannot choose the size of a picture: {why}")
    if args.masks == "pasted" and (size is not None or (resizing is not None and not args.resize)):
        raise ConfigError(
            "--masks pasted needs --resize and no fixed --image-size: else the graph does not "
            "know the picture that masks are pasted into"
        )
    faster = optimize(predictor.model)
    graph = DetectionGraph(
        # Its layers are written for PyTorch; other runtimes fuse those of the plain model themselves.
        faster if args.format == "aoti" else predictor.model,
        resizing=resizing if args.resize else None,
        pasted_masks=args.masks == "pasted",
        mask_threshold=_mask_threshold(predictor.model),
    ).eval()
    print(f"tracing {type(predictor.model).__name__} for {args.image_size} pictures", flush=True)
    program = trace(graph, size)
    description = _describe(predictor, args, size, resizing, color_order, _output_names(program))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export") as folder:
        part = Path(folder, output.name)
        minutes = ", which takes a compiler minutes" if args.format == "aoti" else ""
        print(f"writing {args.format}{minutes}", flush=True)
        WRITERS[args.format](program, description, part)
        exported, original = load(part), OriginalModel(predictor.model, description)
        parity = _report(original, exported, OriginalModel(faster, description), pictures, args.format)
        if parity.first:
            print("exporting anew with every stage as an output, to find the first that differs", flush=True)
            image = dict(pictures)[parity.picture]
            stage = first_stage(graph, description, args.format, image, size=size)
            print(f"the first stage that differs: {stage}")
            return 1
        if lower is not None and not _lowered(lower, part, original, pictures):
            return 1
        for file in Path(folder).iterdir():
            os.replace(file, output.parent / file.name)
    print(f"written: {output}")
    if args.check_tensorrt:
        problems = check_file(output)
        print(
            f"by its documents, TensorRT takes the file{', but for' * bool(problems)}", *problems, sep="\n  "
        )
    return 0


def _checked_output(path: str, format: str) -> Path:
    ending = FORMATS[format][0]
    if not path.endswith(ending):
        raise ConfigError(f"--output of --format {format} must end in {ending}, got {path!r}")
    if format == "pt2" and path.endswith(FORMATS["aoti"][0]):
        raise ConfigError(f"--output: {FORMATS['aoti'][0]} is the ending of --format aoti, got {path!r}")
    if os.path.isdir(path):
        raise ConfigError(f"--output must be a file, {path!r} is a folder")
    return Path(path)


def _image_size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or min(int(match[1]), int(match[2])) < 32:
        raise ConfigError(
            f"--image-size must be dynamic or HxW from 32x32 on, such as 800x1344, got {text!r}"
        )
    return int(match[1]), int(match[2])


def _pictures(inputs: Sequence[str], size: tuple[int, int] | None) -> list[tuple[str, np.ndarray]]:
    """Names and RGB pixels of the given images, or of drawn ones."""
    if inputs:
        found, missing = find_inputs(inputs)
        files = [file.path for file in found]
        if missing or not files:
            raise ConfigError(f"--images: no images found: {', '.join(missing or inputs)}")
        return [(file, np.asarray(utils.read_image(file, format="RGB"), dtype=np.uint8)) for file in files]
    sizes = [size] if size else [(240, 320), (321, 203), (160, 160)]
    return [(f"drawn picture {index}", _drawn(index, *one)) for index, one in enumerate(sizes, 1)]


def _drawn(seed: int, height: int, width: int) -> np.ndarray:
    """A picture of shapes on grey, always the same one for a seed."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(60, 200, 3)))
    canvas = ImageDraw.Draw(picture)
    for index in range(12):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        side = rng.uniform(0.05, 0.3) * min(height, width)
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        draw = canvas.ellipse if index % 2 else canvas.rectangle
        draw((x - side, y - side, x + side, y + side), fill=color)
    return np.asarray(picture)


def _test_input(config: RunConfig) -> tuple[str, ShortestEdge | None]:
    """The colour order of the config's test mapper, and how it resizes.

    Raises:
        ConfigError: it does something that an exported model does not.
    """
    mapper: Any = config.build_test_mapper()
    if type(mapper) is DatasetMapper and mapper.image_format in ("RGB", "BGR"):
        augmentations = mapper.augmentations.augs
        if not augmentations:
            return mapper.image_format, None
        first = augmentations[0]
        if len(augmentations) == 1 and isinstance(first, T.ResizeShortestEdge):
            lengths = set(first.short_edge_length)
            if len(lengths) == 1:
                return mapper.image_format, ShortestEdge(int(lengths.pop()), int(min(first.max_size, 2**31)))
    raise ConfigError(
        "dataloader.test.mapper: a model can be exported whose DatasetMapper reads RGB or BGR and resizes by "
        "one ResizeShortestEdge of one length, or not at all"
    )


def _mask_threshold(model: nn.Module) -> float:
    return float(getattr(model, "mask_threshold", 0.5))


def _output_names(program: Any) -> list[str]:
    """The keys of the graph's dict of outputs."""
    return list(program.call_spec.out_spec.context)


def _describe(
    predictor: Predictor,
    args: argparse.Namespace,
    size: tuple[int, int] | None,
    resizing: ShortestEdge | None,
    color_order: str,
    outputs: list[str],
) -> ModelDescription:
    model: Any = predictor.model
    predictors = model.roi_heads.box_predictor
    last: Any = predictors[-1] if isinstance(predictors, nn.ModuleList) else predictors
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        predictor.config.save(str(path))
        config = path.read_text()
    return ModelDescription(
        version=mrcnn_plugin.__version__,
        outputs=outputs,
        color_order=color_order,
        image_size=list(size) if size else None,
        min_size=resizing.min_size if resizing else None,
        max_size=resizing.max_size if resizing else None,
        resizes=args.resize,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        score_threshold=args.score_threshold,
        nms_threshold=last.test_nms_thresh,
        masks=args.masks if "masks" in outputs else None,
        mask_threshold=_mask_threshold(model),
        metadata=metadata_fields(predictor.metadata),
        config=config,
    )


def _report(
    original: OriginalModel,
    exported: ExportedModel,
    faster: OriginalModel,
    pictures: Sequence[tuple[str, np.ndarray]],
    format: str,
) -> Parity:
    """Prints what differs and how long both take."""
    parity = _compared(original, exported, pictures)
    if not parity.detections:
        print("  nothing was detected, so nothing was compared: give pictures with --images")
    models = {"PyTorch": original, "PyTorch, as predict.py runs it": faster, format: exported}
    _print_seconds(models, pictures[0][1])
    if parity.first:
        print(f"the first difference: {parity.first}")
    return parity


def _lowered(
    lower: LowerPrecision, file: Path, original: OriginalModel, pictures: Sequence[tuple[str, np.ndarray]]
) -> bool:
    """Replaces a float32 file by one of lower precision; whether there is one that is good enough."""
    float32 = load(file)
    if not lower.replace(file):
        return False
    lowered = load(file)
    _compared(original, lowered, pictures)
    _print_seconds({"PyTorch": original, "float32": float32, lower.precision: lowered}, pictures[0][1])
    return True


def _compared(
    original: OriginalModel, exported: ExportedModel, pictures: Sequence[tuple[str, np.ndarray]]
) -> Parity:
    parity = compare(original, exported, pictures, Tolerance(), limit=original.limit)
    print(f"compared with the model on {len(pictures)} pictures:")
    for name, value in parity.rows():
        print(f"  {name:40}{value}")
    return parity


def _print_seconds(models: Mapping[str, ExportedModel], image: np.ndarray) -> None:
    print(f"seconds for a picture of {image.shape[1]} x {image.shape[0]} (median of 3):")
    for name, model in models.items():
        print(f"  {name:40}{_seconds(model, image):.3f}")


def _seconds(model: ExportedModel, image: np.ndarray, repeats: int = 3) -> float:
    times = []
    # A runtime prepares itself for a size of picture when it first sees it.
    model(image)
    for _ in range(repeats):
        start = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
