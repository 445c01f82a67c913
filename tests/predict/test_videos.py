"""Videos: each frame's results and overlay, streamed, and only put in place when complete."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.tiny_predictor import BrightSpots

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.predict import videos
from mrcnn_plugin.predict.tiles import TileSize
from mrcnn_plugin.predict.videos import outputs_of, predict_video

FRAMES = 7


@pytest.fixture
def clip(tmp_path) -> str:
    """A white square that moves 8 pixels to the right in each of 7 frames of 120 x 160 pixels."""
    path = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 10, (160, 120))
    for number in range(FRAMES):
        writer.write(frame(number))
    writer.release()
    return path


def frame(number: int) -> np.ndarray:
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[40:72, 16 + 8 * number : 48 + 8 * number] = 255
    return picture


@pytest.mark.parametrize(("batch", "tile"), [(1, None), (3, None), (2, TileSize(100, 60))])
def test_every_frame(clip, tmp_path, batch, tile):
    (tmp_path / "out").mkdir()
    video = outputs_of(clip, str(tmp_path / "out" / "clip"), overlays=True)
    assert predict_video(BrightSpots(), video, batch=batch, workers=2, tile=tile) == (FRAMES, FRAMES)
    results = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert [result["image_id"] for result in results] == list(range(FRAMES))
    for number, result in enumerate(results):
        assert result["bbox"] == pytest.approx([16 + 8 * number, 40, 32, 32], abs=2)
        assert result["time"] == pytest.approx(number / 10)
        assert result["file_name"] == clip
    overlay = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert overlay.get(cv2.CAP_PROP_FPS) == 10
    pictures = []
    while (read := overlay.read())[0]:
        pictures.append(read[1])
    assert len(pictures) == FRAMES
    # Enlarged, so that labels can be read; the square is no longer white, but has its class's colour.
    assert pictures[0].shape[0] == 400
    scale = 400 / 120
    for number, picture in enumerate(pictures):
        inside = picture[int(60 * scale), int((32 + 8 * number) * scale)].astype(int)
        assert inside.max() - inside.min() > 40
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.json", "clip.mp4"]


def test_no_overlay_and_few_frames(clip, tmp_path):
    video = outputs_of(clip, str(tmp_path / "results"), overlays=False)
    assert predict_video(BrightSpots(), video, batch=2, workers=1, max_frames=3) == (3, 3)
    assert not (tmp_path / "results.mp4").exists()
    assert len(json.loads((tmp_path / "results.json").read_text())) == 3


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_what_is_no_video_leaves_nothing(tmp_path, content):
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OSError, match="OpenCV cannot open it"):
        predict_video(BrightSpots(), outputs_of(str(path), str(out / "broken"), True), batch=1, workers=1)
    assert list(out.iterdir()) == []


def test_a_failure_leaves_nothing_half_written(clip, tmp_path):
    class Failing(BrightSpots):
        def detect(self, inputs):
            if inputs[0]["image"][:, 56, 20].sum() == 0:
                raise ConfigError("stop")
            return super().detect(inputs)

    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match="stop"):
        predict_video(Failing(), outputs_of(clip, str(out / "clip"), True), batch=1, workers=1)
    assert list(out.iterdir()) == []


def test_a_camera_ends_with_ctrl_c(tmp_path, monkeypatch):
    class Camera:
        count = 0

        def __init__(self, source):
            assert source == 2

        def isOpened(self):
            return True

        def get(self, key):
            return 0.0

        def read(self):
            self.count += 1
            if self.count == 4:
                signal.raise_signal(signal.SIGINT)
            assert self.count < 20
            return True, frame(self.count)

        def release(self):
            pass

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(videos.cv2, "VideoCapture", Camera)
    video = outputs_of(2, str(tmp_path / "camera2"), overlays=True)
    frames, instances = predict_video(BrightSpots(), video, batch=1, workers=1)
    assert frames == instances == 4
    monkeypatch.undo()
    overlay = cv2.VideoCapture(video.overlay)
    # A camera that does not say how fast it is.
    assert overlay.get(cv2.CAP_PROP_FPS) == 25
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_a_video_whose_name_is_not_unicode_is_refused(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    Path(path).write_bytes(b"x")
    with pytest.raises(OSError, match="not Unicode: rename it"):
        predict_video(BrightSpots(), outputs_of(path, str(tmp_path / "out"), True), batch=1, workers=1)
