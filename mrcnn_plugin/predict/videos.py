"""Videos and cameras: frames in, a video with overlays and COCO results of every frame out. By OpenCV."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from mrcnn_plugin.atomic_files import replacing
from mrcnn_plugin.reporting.pictures import draw_predictions

from .inputs import is_text
from .predictor import Predictor
from .reading_ahead import ahead
from .tiles import TiledImage, TileSize, detect_tiled

#: Of a camera or file that does not say how fast it is.
_FRAMES_A_SECOND = 25.0
# What every build of OpenCV with FFmpeg writes; H.264 is in few of them.
_CODEC = "mp4v"


class Video(NamedTuple):
    """source: a file, or a camera's number. overlay: the mp4 to write, None for none; results: the JSON."""

    source: str | int
    overlay: str | None
    results: str


def predict_video(
    predictor: Predictor,
    video: Video,
    *,
    batch: int,
    workers: int,
    tile: TileSize | None = None,
    max_frames: int | None = None,
    progress: bool = True,
) -> tuple[int, int]:
    """Detects the objects of every frame.

    Ctrl-C ends a camera as its last frame would. The files appear when they are complete.

    Args:
        tile: cuts frames into tiles; None does not.
        max_frames: stops after so many; None at the end.

    Returns:
        Numbers of frames and of instances.

    Raises:
        OSError: the source cannot be opened, or has no frame; the overlay cannot be written.
    """
    for path in (video.source, video.overlay):
        if isinstance(path, str) and not is_text(path):
            raise OSError("OpenCV opens no file whose name is not Unicode: rename it, or its folder")
    capture = cv2.VideoCapture(video.source)
    try:
        if not capture.isOpened():
            raise OSError("OpenCV cannot open it")
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else _FRAMES_A_SECOND
        stop = threading.Event()
        frames = _frames(capture, max_frames, stop)
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        with (
            # There is nothing after the last frame of a camera but Ctrl-C.
            _stopping(stop) if isinstance(video.source, int) else contextlib.nullcontext(),
            ThreadPoolExecutor(max(workers, 1)) as pool,
            _Results(video, rate) as results,
            _Overlay(video.overlay, rate) as overlay,
            tqdm(
                desc=str(video.source),
                total=total if total > 0 else None,
                unit="frame",
                file=sys.stderr,
                disable=None if progress else True,
            ) as bar,
        ):
            drawn: list[Any] = []
            for images, found in _detected(predictor, frames, pool, batch, tile):
                results.add(predictor, found)
                overlay.write(drawn)
                drawn = overlay.draw(pool, images, found, predictor.metadata, tile.side if tile else None)
                bar.update(len(images))
            overlay.write(drawn)
            if not results.frames:
                raise OSError("it has no frame that OpenCV can decode")
        return results.frames, results.instances
    finally:
        capture.release()


def _frames(capture: Any, max_frames: int | None, stop: threading.Event) -> Iterator[Image.Image]:
    count = 0
    while not stop.is_set() and (max_frames is None or count < max_frames):
        good, frame = capture.read()
        if not good:
            return
        count += 1
        yield Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _detected(
    predictor: Predictor, frames: Iterator[Image.Image], pool: Executor, batch: int, tile: TileSize | None
) -> Iterator[tuple[list[Image.Image], list[Instances]]]:
    if tile is None:
        for images, inputs in ahead(predictor.model_input, _batches(frames, batch), pool, depth=2):
            yield images, predictor.detect(inputs)
        return
    for image in frames:
        tiled = TiledImage(image, tile.grid(image.height, image.width))
        yield [image], [detect_tiled(predictor, tiled, pool, batch)]


def _batches(frames: Iterator[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class _Results:
    """COCO results of frames, image_id from 0, with the time in seconds; streamed to a JSON file."""

    def __init__(self, video: Video, rate: float) -> None:
        self.frames = self.instances = 0
        self._video, self._rate = video, rate
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Results:
        part = self._stack.enter_context(replacing(self._video.results))
        self._file = self._stack.enter_context(open(part, "w"))
        self._file.write("[")
        return self

    def add(self, predictor: Predictor, found: list[Instances]) -> None:
        for instances in found:
            for result in predictor.coco_results(instances, self.frames, str(self._video.source)):
                result["time"] = self.frames / self._rate
                self._file.write((", " if self.instances else "") + json.dumps(result))
                self.instances += 1
            self.frames += 1

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._file.write("]")
        return self._stack.__exit__(*error)


class _Overlay:
    """An mp4 with what was found drawn into it; none where the path is None."""

    def __init__(self, path: str | None, rate: float) -> None:
        self._path, self._rate = path, rate
        self._stack = contextlib.ExitStack()
        self._writer: Any = None

    def __enter__(self) -> _Overlay:
        if self._path is not None:
            self._part = self._stack.enter_context(replacing(self._path))
        return self

    def draw(
        self,
        pool: Executor,
        images: list[Image.Image],
        found: list[Instances],
        metadata: Metadata,
        view: int | None,
    ) -> list[Any]:
        """Starts to draw frames; `write` takes what this returns."""
        if self._path is None:
            return []
        return [
            pool.submit(draw_predictions, np.asarray(image), instances, metadata, view=view)
            for image, instances in zip(images, found)
        ]

    def write(self, drawn: list[Any]) -> None:
        for future in drawn:
            picture = future.result()
            height, width = picture.shape[:2]
            if self._writer is None:
                codec = cv2.VideoWriter.fourcc(*_CODEC)
                self._writer = cv2.VideoWriter(self._part, codec, self._rate, (width, height))
                self._stack.callback(self._writer.release)
                if not self._writer.isOpened():
                    raise OSError(f"OpenCV cannot write {self._path} ({_CODEC})")
            self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Lets the first Ctrl-C set an event; the second one interrupts as ever."""

    def on_interrupt(signum: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def outputs_of(source: str | int, path: str, overlays: bool) -> Video:
    """A video whose files are called `path` but for their suffixes."""
    return Video(source, f"{path}.mp4" if overlays else None, f"{path}.json")
