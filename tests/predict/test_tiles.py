"""Tiles: the grid, and one instance of each object that several tiles have seen."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from helpers.tiny_predictor import BrightSpots
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import RLEMasks
from mrcnn_plugin.predict import build_predictor, run_files
from mrcnn_plugin.predict import tiles as tiles_module
from mrcnn_plugin.predict.inputs import Picture
from mrcnn_plugin.predict.pictures import Pace, predict_pictures
from mrcnn_plugin.predict.results_log import ResultsLog
from mrcnn_plugin.predict.tiles import TiledImage, TileSize, detect_tiled, in_picture, joined, merge_tiles


def encode(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def seen(objects: list[np.ndarray], tile: np.ndarray, classes: list[int], masks: bool = True) -> Instances:
    """What a perfect detector finds in a tile of a picture with these (H, W) bool objects."""
    x0, y0, x1, y1 = tile.tolist()
    boxes, labels, rles, points = [], [], [], []
    for mask, label in zip(objects, classes):
        part = mask[y0:y1, x0:x1]
        if not part.any():
            continue
        ys, xs = np.nonzero(part)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        labels.append(label)
        rles.append(encode(part))
        points.append([[xs.min() + 0.5, ys.min() + 0.5, part.sum() / mask.sum()]])
    instances = Instances(
        (y1 - y0, x1 - x0),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(labels, dtype=torch.int64),
        # What is seen whole is the surest.
        scores=torch.tensor([point[0][2] for point in points], dtype=torch.float32) * 0.9,
        pred_keypoints=torch.tensor(points, dtype=torch.float32).reshape(-1, 1, 3),
    )
    if masks:
        instances.pred_masks_rle = RLEMasks(rles)
    return instances


def through_tiles(objects, tile: TileSize, classes=None, masks=True) -> Instances:
    height, width = objects[0].shape
    grid = tile.grid(height, width)
    classes = classes or [0] * len(objects)
    parts = [in_picture(seen(objects, each, classes, masks), each, (height, width)) for each in grid]
    tile_of = np.repeat(np.arange(len(grid)), [len(part) for part in parts])
    return merge_tiles(joined(parts), tile_of, grid)


def rectangle(size, x0, y0, x1, y1) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@given(length=st.integers(1, 5000), side=st.integers(32, 900), share=st.integers(1, 90))
def test_tiles_cover_and_overlap(length, side, share):
    overlap = max(1, side * share // 100)
    starts = TileSize(side, overlap).starts(length)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert starts[-1] + side == length or length <= side
    steps = np.diff(starts)
    assert (steps > 0).all()
    # Evenly spaced starts are rounded to pixels.
    assert (side - steps >= overlap).all() or (
        steps.max() - steps.min() <= 1 and (side - steps + 1 >= overlap).all()
    )


def test_grid():
    grid = TileSize(64, 14).grid(50, 114)
    assert grid.tolist() == [[0, 0, 64, 50], [50, 0, 114, 50]]


@pytest.mark.parametrize(("side", "overlap"), [(20, 5), (64, 0), (64, 64)])
def test_tile_size_is_checked(side, overlap):
    with pytest.raises(ConfigError):
        TileSize(side, overlap)


SIZE = (200, 300)
TILE = TileSize(100, 30)
OBJECTS = {
    "whole in one tile": rectangle(SIZE, 10, 10, 40, 40),
    "whole in two tiles": rectangle(SIZE, 72, 10, 98, 30),
    "cut by an edge": rectangle(SIZE, 60, 40, 130, 62),
    "over a corner of four tiles": rectangle(SIZE, 40, 60, 120, 130),
    "longer than any tile": rectangle(SIZE, 5, 150, 290, 165),
    "a sliver in the next tile": rectangle(SIZE, 160, 20, 203, 50),
}


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("name", OBJECTS)
def test_one_object_is_found_once(name, masks):
    mask = OBJECTS[name]
    found = through_tiles([mask], TILE, masks=masks)
    assert len(found) == 1
    ys, xs = np.nonzero(mask)
    assert found.pred_boxes.tensor[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    if masks:
        assert (mask_util.decode(found.pred_masks_rle[0]) == mask).all()
        assert found.pred_masks_rle[0]["size"] == list(SIZE)
    # The keypoint of the view that shows most of the object.
    assert found.pred_keypoints.shape == (1, 1, 3)


def test_neighbours_of_one_class_stay_apart():
    objects = [rectangle(SIZE, 60, 40, 100, 60), rectangle(SIZE, 100, 40, 140, 60)]
    found = through_tiles(objects, TILE)
    assert len(found) == 2
    decoded = sorted(
        (mask_util.decode(rle) for rle in found.pred_masks_rle), key=lambda m: m.nonzero()[1].min()
    )
    assert all((mine == theirs).all() for mine, theirs in zip(decoded, objects))


def test_classes_are_kept_apart():
    """A small object on a large one of another class, both over an edge."""
    large, small = rectangle(SIZE, 50, 30, 135, 80), rectangle(SIZE, 88, 40, 108, 60)
    found = through_tiles([large & ~small, small], TILE, classes=[0, 1])
    assert sorted(found.pred_classes.tolist()) == [0, 1]
    by_class = {
        int(label): mask_util.decode(rle) for label, rle in zip(found.pred_classes, found.pred_masks_rle)
    }
    assert (by_class[0] == (large & ~small)).all()
    assert (by_class[1] == small).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_random_objects_come_out_as_they_are(seed):
    rng = np.random.default_rng(seed)
    objects = []
    taken = np.zeros(SIZE, bool)
    for _ in range(12):
        width, height = rng.integers(12, 90, 2)
        x, y = rng.integers(0, SIZE[1] - width), rng.integers(0, SIZE[0] - height)
        mask = rectangle(SIZE, x, y, x + width, y + height)
        if not (mask & taken).any():
            objects.append(mask)
            taken |= mask
    found = through_tiles(objects, TILE)
    keys = lambda rles: sorted(rle["counts"] for rle in rles)  # noqa: E731
    assert keys(found.pred_masks_rle) == keys(map(encode, objects))
    assert (found.scores.diff() <= 0).all()


def test_nothing_found():
    found = through_tiles([np.zeros(SIZE, bool)], TILE)
    assert len(found) == 0
    assert found.image_size == SIZE


@pytest.fixture
def predictor(finished_run):
    return build_predictor(*run_files(str(finished_run)), threshold=0.0)


def test_a_picture_of_one_tile_is_as_without_tiles(predictor, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    path = str(tmp_path / "picture.png")
    Image.fromarray(picture).save(path)
    plain, _ = predictor.predict(path)
    with ThreadPoolExecutor(1) as pool:
        tiled = detect_tiled(predictor, TiledImage.open(path, TileSize(96, 32)), pool, batch=2)
    assert len(plain) == len(tiled) > 0
    order = plain.scores.argsort(descending=True, stable=True)
    assert torch.equal(plain.pred_boxes.tensor[order], tiled.pred_boxes.tensor)
    for mask, rle in zip(plain.pred_masks[order].numpy(), tiled.pred_masks_rle):
        assert encode(mask)["counts"] == rle["counts"]


def test_a_picture_of_many_tiles(tmp_path):
    """Through the program's own path: read, tiles, merge, log, overlay."""
    rng = np.random.default_rng(0)
    whole = np.zeros((900, 1200), np.uint8)
    for row in range(5):
        for column in range(8):
            center = 75 + 150 * np.array([column, row + 0.5]) + rng.uniform(-20, 20, 2)
            size, angle = tuple(rng.uniform(20, 90, 2)), rng.uniform(0, 180)
            cv2.fillPoly(whole, [cv2.boxPoints((tuple(center), size, angle)).round().astype(int)], 255)
    # Longer than any tile.
    whole[850:870, 20:1180] = 255
    count, labels = cv2.connectedComponents(whole)
    path = tmp_path / "large.png"
    Image.fromarray(np.repeat(whole[..., None], 3, axis=2)).save(path)
    picture = Picture(str(path), 7, str(tmp_path / "out" / "large.png"))
    (tmp_path / "out").mkdir()
    log = ResultsLog(str(tmp_path / "out"), {})
    log.open()
    assert predict_pictures(BrightSpots(), [picture], log, Pace(batch=3), TileSize(256, 64)) == []
    log.close()
    assert log.merge([picture], str(tmp_path / "results.json")) == (count - 1, 1)
    found = {r["segmentation"]["counts"] for r in json.loads((tmp_path / "results.json").read_text())}
    assert found == {encode(labels == index)["counts"].decode() for index in range(1, count)}
    overlay = np.asarray(Image.open(picture.overlay))
    assert overlay.shape == (900, 1200, 3)
    # White with a colour of 40% over it.
    assert overlay[860, 600].max() - overlay[860, 600].min() > 60


def test_rotated_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (80, 64)).save(tmp_path / "turned.png", exif=exif)
    opened = TiledImage.open(str(tmp_path / "turned.png"), TileSize(64, 16))
    assert opened.image.size == (64, 80)
    assert opened.image.mode == "RGB"
    assert opened.grid.tolist() == [[0, 0, 64, 64], [0, 16, 64, 80]]


def test_a_picture_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    Image.new("L", (640, 640)).save(tmp_path / "large.png")
    monkeypatch.setattr(tiles_module.os, "sysconf", lambda name: 1000)
    with pytest.raises(
        Image.DecompressionBombError, match=r"640 x 640 pixels take .* over half of this machine's"
    ):
        TiledImage.open(str(tmp_path / "large.png"), TileSize(64, 16))
