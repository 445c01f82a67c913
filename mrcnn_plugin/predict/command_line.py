"""The body of predict.py: images and videos in, overlays and COCO-format JSON out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mrcnn_plugin.compat.warnings import silence_warnings
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.optimization import PRECISIONS

from .exported import ExportedPredictor
from .inputs import find_inputs, is_video, output_paths, pictures_of
from .pictures import Pace, predict_pictures
from .predictor import CHECKPOINTS, Predictor, build_predictor, named_files
from .results_log import ResultsLog
from .tiles import TileSize
from .videos import Video, outputs_of, predict_video

_EPILOG = """\
Exit status: 0; 1 if an input could not be read; 2 if the command line is wrong.

  predict.py --run output/demo --output out images/
  predict.py --run output/demo --output out images/ --resume        after Ctrl-C or a crash
  predict.py --run output/demo --output out map.tif --tile 1024
  torchrun --nproc-per-node 8 -- predict.py --run output/demo --output out images/
"""


def argument_parser() -> argparse.ArgumentParser:
    """The command line of predict.py."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Detect objects in images: an overlay of each, and one COCO-format predictions.json.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="image files, folders, quoted globs, or video files"
    )
    parser.add_argument("--run", metavar="FOLDER", help="a run folder of train_net.py, for both")
    parser.add_argument("--model", metavar="FILE", help="a file that export.py wrote, for all of it")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="final", help="which weights of --run; default: final"
    )
    parser.add_argument("--config-file", metavar="FILE", help="LazyConfig (.py) or YAML file, or a zoo name")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint (default: the run's, or the config's)")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, metavar="S", help="in [0, 1]; default 0.5"
    )
    parser.add_argument("--output", default="predictions", metavar="FOLDER", help="default: predictions")
    parser.add_argument(
        "--trust-run",
        action="store_true",
        help="let a run folder's config run code that it names; only for folders that you trust as a program",
    )
    parser.add_argument("--device", help="cuda, cuda:1, cpu, ...; chosen when not given")
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    what = parser.add_argument_group("what is read and written")
    what.add_argument("--recursive", action="store_true", help="folders with their subfolders")
    what.add_argument("--no-overlays", action="store_true", help="results alone, no pictures")
    what.add_argument("--resume", action="store_true", help="skip what the output folder has results of")
    what.add_argument("--camera", type=int, metavar="N", help="read this camera too, until Ctrl-C")
    what.add_argument("--max-frames", type=int, metavar="F", help="stop videos and the camera after F frames")
    how = parser.add_argument_group("how objects are found")
    how.add_argument(
        "--tile",
        type=int,
        metavar="SIZE",
        help="cut pictures into tiles of SIZE pixels; merge the results",
    )
    how.add_argument(
        "--overlap", type=int, metavar="O", help="pixels that neighbouring tiles share; default SIZE / 4"
    )
    how.add_argument(
        "--tta", action="store_true", help="test-time augmentation: several scales, and their mirror images"
    )
    pace = parser.add_argument_group("how fast")
    pace.add_argument(
        "--batch", type=int, metavar="N", help="images in one run of the network; default 4 on a GPU, else 1"
    )
    pace.add_argument(
        "--workers",
        type=int,
        metavar="W",
        help="threads that read, and draw; default 4 on a GPU, else 1",
    )
    pace.add_argument(
        "--no-optimize", action="store_true", help="run the model as it was trained (on the CPU: slower)"
    )
    pace.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="on the CPU; bfloat16: sooner on processors with instructions for it, results that differ in "
        "the third digit; auto: it, where a short measurement finds it faster; default: float32",
    )
    pace.add_argument(
        "--compile",
        action="store_true",
        help="on the CPU: compile the backbone (seconds per size of picture), where that is found faster",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs what `argument_parser` describes, in this process or as one of several.

    Returns:
        1 if an input was missing or broken, else 0.

    Raises:
        ConfigError, DatasetError: the command line is wrong.
    """
    if sum(map(bool, (args.run, args.config_file, args.model))) != 1:
        raise ConfigError(
            "give either --run FOLDER, or --config-file FILE with --weights FILE, or --model FILE"
        )
    tile = _check_numbers(args)
    silence_warnings()
    config_file, weights = named_files(args.run, args.checkpoint, args.config_file, args.weights)
    inputs, missing = find_inputs(args.inputs, recursive=args.recursive, skip=args.output)
    if not inputs and args.camera is None:
        raise ConfigError(f"no images found: {', '.join(missing or args.inputs) or 'none were given'}")
    overlays = not args.no_overlays
    pictures = pictures_of(
        [file for file in inputs if not is_video(file.path)], args.output, overlays=overlays
    )
    videos = _videos_of([file for file in inputs if is_video(file.path)], args, overlays)
    setup_logger(name="fvcore")
    if args.compile or args.precision == "auto":
        # What is chosen, and what it costs.
        setup_logger(name="mrcnn_plugin")
    predictor = _predictor(args, config_file, weights)
    pace = _pace(args, predictor.device)
    with _writing_to(args.output):
        os.makedirs(args.output, exist_ok=True)
        log = _open_log(args, config_file, args.model or weights, pace.rank)
        try:
            failed = predict_pictures(predictor, pictures, log, pace, tile)
            failed += _predict_videos(predictor, videos, log, pace, tile, args.max_frames)
        finally:
            log.close()
    failed = [f"{given}: no such file or folder" for given in missing] + [
        line for lines in comm.all_gather(failed) for line in lines
    ]
    if comm.is_main_process():
        if pictures:
            path = os.path.join(args.output, "predictions.json")
            with _writing_to(args.output):
                instances, images = log.merge(pictures, path)
            print(f"{instances} instances in {images} images: {path}")
        if failed:
            print(f"{len(failed)} could not be read:", *failed, sep="\n  ", file=sys.stderr)
    # torchrun ends the other processes when one ends with a status other than 0.
    comm.synchronize()
    return 1 if failed else 0


@contextlib.contextmanager
def _writing_to(folder: str) -> Iterator[None]:
    """What inputs raise is caught where they are read: other errors are the output's."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error}; --resume goes on from here") from error


def _predictor(args: argparse.Namespace, config_file: str, weights: str) -> Predictor:
    """What the command line names.

    Raises:
        ConfigError: it is not usable, or something is given that an exported model does not take.
    """
    if args.model:
        if args.precision != "float32":
            raise ConfigError("--precision does not go with --model: the file is a finished model")
        for option in ("weights", "device", "opts", "tta", "no_optimize", "compile"):
            if getattr(args, option):
                name = option.replace("_", "-")
                raise ConfigError(f"--{name} does not go with --model: the file is a finished model")
        return ExportedPredictor(args.model, args.score_threshold)
    for option, given in (("precision", args.precision != "float32"), ("compile", args.compile)):
        if given and args.no_optimize:
            raise ConfigError(f"--{option} is of the optimized copy, which --no-optimize leaves out")
    return build_predictor(
        config_file,
        weights,
        threshold=args.score_threshold,
        device=args.device or "",
        opts=args.opts,
        trusted=args.trust_run,
        tta=args.tta,
        optimized=not args.no_optimize,
        precision=args.precision,
        compiled=args.compile,
    )


def _check_numbers(args: argparse.Namespace) -> TileSize | None:
    """The tiles, where they are requested."""
    for name in ("batch", "workers", "max_frames"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.tile is None:
        if args.overlap is not None:
            raise ConfigError("--overlap needs --tile SIZE")
        return None
    return TileSize(args.tile, args.tile // 4 if args.overlap is None else args.overlap)


def _videos_of(files: Sequence[Any], args: argparse.Namespace, overlays: bool) -> list[Video]:
    # predictions.json is the pictures'.
    paths = output_paths(files, args.output, "", taken=["predictions"])
    videos = [outputs_of(file.path, path, overlays) for file, path in zip(files, paths)]
    outputs = {os.path.realpath(video.overlay) for video in videos if video.overlay}
    for file in files:
        if os.path.realpath(file.path) in outputs:
            raise ConfigError(
                f"--output {args.output}: {file.path} would be overwritten; give another folder"
            )
    if args.camera is not None and comm.is_main_process():
        videos.append(outputs_of(args.camera, os.path.join(args.output, f"camera{args.camera}"), overlays))
    return videos


def _pace(args: argparse.Namespace, device: str) -> Pace:
    default = 4 if device.startswith("cuda") else 1
    return Pace(
        batch=args.batch or default,
        workers=args.workers or default,
        rank=comm.get_rank(),
        world=comm.get_world_size(),
        progress=comm.is_main_process(),
    )


def _open_log(args: argparse.Namespace, config_file: str, weights: str, rank: int) -> ResultsLog:
    """The log of this run: that of an earlier one with --resume, else an empty one."""
    settings = {
        "the config": _fingerprint(config_file),
        "the weights": _fingerprint(weights),
        "--opts": " ".join(args.opts),
        "--score-threshold": args.score_threshold,
        "--tile": args.tile,
        "--overlap": args.overlap,
        "--tta": args.tta,
        "--no-optimize": args.no_optimize,
        "--precision": args.precision,
        "--compile": args.compile,
    }
    log = ResultsLog(args.output, settings, rank=rank)
    if args.resume:
        log.read()
    elif rank == 0:
        log.clear()
    # No process writes before all have read.
    comm.synchronize()
    log.open()
    return log


def _fingerprint(path: str) -> str:
    """A file by its name, size and checksum; a name that is no file, as a zoo's, by itself."""
    if not os.path.isfile(path):
        return path
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return f"{Path(path).name} ({os.path.getsize(path)} bytes, CRC-32 {checksum:08x})"


def _predict_videos(
    predictor: Predictor,
    videos: Sequence[Video],
    log: ResultsLog,
    pace: Pace,
    tile: TileSize | None,
    max_frames: int | None,
) -> list[str]:
    """Predicts this process's videos, and returns a line for each that could not be read."""
    failed = []
    for index, video in enumerate(videos):
        is_camera = isinstance(video.source, int)
        if not is_camera and index % pace.world != pace.rank:
            continue
        name = f"camera {video.source}" if is_camera else str(video.source)
        if not is_camera and log.has(name, video.overlay) and os.path.isfile(video.results):
            continue
        try:
            frames, instances = predict_video(
                predictor,
                video,
                batch=pace.batch,
                workers=pace.workers,
                tile=tile,
                max_frames=max_frames,
                progress=pace.progress,
            )
        except OSError as error:
            failed.append(f"{name}: {error}")
            continue
        log.append([(name, video.overlay, None)])
        print(f"{name}: {instances} instances in {frames} frames -> {video.overlay or video.results}")
    return failed
