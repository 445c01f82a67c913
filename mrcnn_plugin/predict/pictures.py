"""Pictures through the network in batches, read ahead of it and drawn behind it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from mrcnn_plugin.atomic_files import replacing
from mrcnn_plugin.data.images import IMAGE_ERRORS
from mrcnn_plugin.errors import first_line
from mrcnn_plugin.reporting.pictures import class_name, draw_predictions

from .inputs import Picture, is_text, shown
from .predictor import Predictor
from .reading_ahead import Behind, ahead
from .results_log import ResultsLog
from .tiles import TiledImage, TileSize, detect_tiled

# zlib's fastest level: a quarter of the time of the default for a tenth more bytes.
_PNG_LEVEL = 1
# Rows of a large picture that are copied at a time.
_STRIP = 256


@dataclass(frozen=True)
class Pace:
    """How a process shares its work out.

    Attributes:
        batch: images, or tiles of one image, in one run of the network.
        workers: threads that read, and as many that draw.
        rank, world: of this process, and number of them; every world-th batch is this process's.
        progress: whether to show a bar.
    """

    batch: int = 1
    workers: int = 1
    rank: int = 0
    world: int = 1
    progress: bool = True


@dataclass(frozen=True)
class _Failure:
    message: str


def batches_of(pictures: Sequence[Picture], log: ResultsLog, pace: Pace) -> list[list[Picture]]:
    """This process's batches of which anything is to be done.

    They are cut before what is done is left out: so a picture's companions in a batch do not depend on where
    an earlier run was stopped, or on the number of processes.
    """
    batches = [list(pictures[start : start + pace.batch]) for start in range(0, len(pictures), pace.batch)]
    return [
        batch
        for batch in batches[pace.rank :: pace.world]
        if not all(log.has(picture.path, picture.overlay) for picture in batch)
    ]


def predict_pictures(
    predictor: Predictor,
    pictures: Sequence[Picture],
    log: ResultsLog,
    pace: Pace,
    tile: TileSize | None = None,
) -> list[str]:
    """Detects the objects of those pictures whose results are not in the log yet, and draws them.

    Results are in the log as soon as the network has seen their batch.

    Args:
        tile: cuts pictures into tiles of this size; None does not.

    Returns:
        A line for each picture that could not be read.
    """
    batches = batches_of(pictures, log, pace)
    failed: list[str] = []
    total = sum(map(len, batches))
    show = None if pace.progress else True
    with (
        ThreadPoolExecutor(max(pace.workers, 1)) as readers,
        ThreadPoolExecutor(max(pace.workers, 1)) as drawers,
        tqdm(total=total, desc="predicting", unit="image", file=sys.stderr, disable=show) as bar,
    ):
        drawing = Behind(drawers)
        detected = (
            _batchwise(predictor, batches, readers)
            if tile is None
            else _tiled(predictor, batches, readers, pace, tile, drawing.wait)
        )
        for batch, results in detected:
            # At most one batch has results and no overlays, and is predicted again after a kill.
            drawing.wait()
            _record(predictor, batch, results, log, failed)
            for picture, result in zip(batch, results):
                if picture.overlay is not None and not isinstance(result, _Failure):
                    drawing.submit(_draw, picture.overlay, *result, predictor.metadata, tile and tile.side)
            # What is to be drawn holds its picture; nothing else should while the next batch is read.
            results.clear()
            bar.update(len(batch))
        drawing.wait()
    return failed


_Detected = Iterator[tuple[list[Picture], list["tuple[Instances, np.ndarray | Image.Image] | _Failure"]]]


def _batchwise(predictor: Predictor, batches: list[list[Picture]], readers: Executor) -> _Detected:
    def read(picture: Picture) -> tuple[dict, np.ndarray] | _Failure:
        return _attempt(lambda: predictor.read(picture.path))

    # One batch is in the network, one is read.
    for batch, inputs in ahead(read, batches, readers, depth=2):
        good = [item for item in inputs if not isinstance(item, _Failure)]
        found = iter(predictor.detect([model_input for model_input, _ in good]) if good else [])
        yield batch, [item if isinstance(item, _Failure) else (next(found), item[1]) for item in inputs]


def _tiled(
    predictor: Predictor,
    batches: list[list[Picture]],
    readers: Executor,
    pace: Pace,
    tile: TileSize,
    drawn: Callable[[], None],
) -> _Detected:
    """A picture at a time, since one may fill much of the memory; it is drawn before the next is read."""
    for picture in (picture for batch in batches for picture in batch):
        drawn()
        image = _attempt(lambda path=picture.path: TiledImage.open(path, tile))
        if isinstance(image, _Failure):
            yield [picture], [image]
            continue
        instances = detect_tiled(predictor, image, readers, pace.batch, progress=pace.progress)
        yield [picture], [(instances, image.image)]
        del image


def _attempt(read: Callable):
    try:
        return read()
    except IMAGE_ERRORS as error:
        return _Failure(first_line(error))


def _record(
    predictor: Predictor, batch: list[Picture], results: list, log: ResultsLog, failed: list[str]
) -> None:
    """Writes a batch to the log, and a line on each of its pictures to the terminal."""
    entries, lines = [], []
    for picture, result in zip(batch, results):
        if isinstance(result, _Failure):
            failed.append(f"{shown(picture.path)}: {result.message}")
            tqdm.write(f"skipped {failed[-1]}", file=sys.stderr)
            continue
        instances = result[0]
        entries.append(
            (
                picture.path,
                picture.overlay,
                predictor.coco_results(instances, picture.image_id, picture.path),
            )
        )
        arrow = "" if picture.overlay is None else f" -> {picture.overlay}"
        lines.append(f"{shown(picture.path)}: {summary(instances, predictor.metadata)}{arrow}")
    log.append(entries)
    for line in lines:
        tqdm.write(shown(line))


def _draw(
    path: str, instances: Instances, image: np.ndarray | Image.Image, metadata: Metadata, view: int | None
) -> None:
    pixels = _pixels(image) if isinstance(image, Image.Image) else image
    picture = draw_predictions(pixels, instances, metadata, view=view, overwrite=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for top in range(0, len(picture), _STRIP):
        # To BGR, as OpenCV writes; its own conversion copies all of a picture that it changes in place.
        strip = picture[top : top + _STRIP]
        strip[...] = strip[..., ::-1].copy()
    with replacing(path) as part:
        if not _write_png(part, picture):
            raise OSError(f"cannot write {path}")


def _write_png(path: str, picture: np.ndarray) -> bool:
    options = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
    if is_text(path):
        return cv2.imwrite(path, picture, options)
    written, data = cv2.imencode(".png", picture, options)
    if written:
        Path(path).write_bytes(data.tobytes())
    return written


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an RGB image, by strips: as a whole, Pillow copies it several times on the way."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def summary(instances: Instances, metadata: Metadata) -> str:
    """Counts by class, in words."""
    counts = Counter(class_name(index, metadata) for index in instances.pred_classes.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
