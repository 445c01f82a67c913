"""The kinds of hostile input: each draws one from a seed and does with it what a program does.

A kind is a function of an empty folder that returns a function of a seed. That one returns where the input
was harmless, or raises what the programs print as one line.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.tiny_runs import TINY
from hostile import corpus
from hostile.hostile_checkpoints import checkpoint
from hostile.hostile_configs import mutated_config, other_bases
from PIL import Image
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer
from mrcnn_plugin.config import fit_to_dataset, fit_to_device, load_config
from mrcnn_plugin.config.lazy import adapt
from mrcnn_plugin.data import ResumableLoader
from mrcnn_plugin.data.convert.command_line import main as convert
from mrcnn_plugin.data.synthetic.shapes import SetParameters, ensure_set
from mrcnn_plugin.errors import DatasetError
from mrcnn_plugin.predict import Predictor
from mrcnn_plugin.train.command_line import check_data

Attempt = Callable[[int], None]
KINDS: dict[str, Callable[[Path], Attempt]] = {}


def kind(make: Callable[[Path], Attempt]) -> Callable[[Path], Attempt]:
    KINDS[make.__name__] = make
    return make


def drawn_set(folder: Path) -> tuple[dict, Path]:
    """A small COCO file's content, and its images."""
    paths = ensure_set(folder, "shapes", "train", SetParameters("shapes", "train", images=3, size=64))
    return json.loads(Path(paths.json_file).read_text()), Path(paths.image_root)


def load_two_batches(json_file: Path, images: Path) -> None:
    """What train_net.py does with data before the first step, and two batches of it."""
    raw = copy.deepcopy(_tiny().raw)
    raw.dataloader.train.dataset.names = raw.dataloader.test.dataset.names = f"coco:{json_file}:{images}"
    config = adapt(raw, str(TINY), ())
    fit_to_dataset(config)
    check_data(config, training=True)
    loader = ResumableLoader(config.build_train_loader(), seed=1)
    for batch in itertools.islice(loader, 2):
        assert all(isinstance(image["image"], torch.Tensor) for image in batch)


_LOADED: list[Any] = []


def _tiny() -> Any:
    if not _LOADED:
        _LOADED.append(load_config(str(TINY), ["+train.device=cpu"]))
    return _LOADED[0]


def converted(*arguments: str) -> None:
    """The converter's program, which prints an error itself."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = convert(arguments)
    if status:
        text = errors.getvalue().strip()
        assert text.startswith("error: "), text
        raise DatasetError(text.removeprefix("error: "))


@kind
def coco_files(folder: Path) -> Attempt:
    """Trained on; one in four goes through the converter as well."""
    dataset, images = drawn_set(folder)

    def attempt(seed: int) -> None:
        path = folder / "mutated.json"
        path.write_bytes(corpus.json_text(dataset, random.Random(seed)))
        if seed % 4 == 3:
            converted("coco", f"{path}:{images}", "-o", str(folder / "out.json"), "--overwrite")
        else:
            load_two_batches(path, images)

    return attempt


@kind
def images_in_training(folder: Path) -> Attempt:
    dataset, images = drawn_set(folder)

    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        other = folder / "images"
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        for image in dataset["images"]:
            data = (images / image["file_name"]).read_bytes()
            if seed % 3 == 0:
                data = data[: draw.randrange(20)]
            elif draw.random() < 0.6:
                data = corpus.picture(draw)
            (other / image["file_name"]).write_bytes(data)
        path = folder / "annotations.json"
        path.write_text(json.dumps(dataset))
        load_two_batches(path, other)

    return attempt


@kind
def images_in_prediction(folder: Path) -> Attempt:
    config = load_config(str(TINY), ["+train.device=cpu"])
    predictor = Predictor(config, config.build_model().eval(), MetadataCatalog.get("hostile"), 0.5)

    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        path = folder / corpus.image_name(draw)
        path.write_bytes(corpus.picture(draw))
        try:
            instances, image = predictor.predict(str(path))
        finally:
            path.unlink()
        assert image.dtype == np.uint8
        assert image.shape == (*instances.image_size, 3)

    return attempt


_LABELS = b"0 0.1 0.1 0.9 0.1 0.5 0.9\n1 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4\n0 0.5 0.5 0.2 0.2\n"
# Lines that no random damage would hit upon.
_ODD_LABELS = (
    *(b"0 nan nan nan nan nan nan", b"0 1e308 1 1 1 1 1", b"-1 0 0 1 0 1 1", b"1e300 0 0 1 0 1 1"),
    *(b"0 " + b"0.5 " * 20_001, b"\xef\xbb\xbf0 0 0 1 0 1 1", b"0 0 0 0 0 0 0", b"\0", b"inf 0 0 1 0 1 1"),
)


@kind
def yolo_folders(folder: Path) -> Attempt:
    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        root = fresh(folder / "yolo", "images", "labels")
        for name in ("a", "b"):
            picture(root / "images" / f"{name}.png", draw, (20, 10))
            label = corpus.damaged(_LABELS, draw) if draw.random() < 0.3 else _LABELS
            label = draw.choice(_ODD_LABELS) if draw.random() < 0.1 else label
            (root / "labels" / f"{name}.txt").write_bytes(label)
        whole = {"names": ["cat", "dog"], "nc": 2, "path": ".", "train": "images", "val": ["images"]}
        tree = corpus.mutated(whole, draw) if draw.random() < 0.4 else {"names": ["cat", "dog"]}
        (root / "data.yaml").write_bytes(corpus.yaml_text(tree, draw))
        boxes = draw.choice(("rectangle", "rectangle", "error"))
        converted("yolo", str(root), "-o", str(root / "out.json"), "--boxes", boxes, *options(draw))

    return attempt


@kind
def mask_folders(folder: Path) -> Attempt:
    """Of the two layouts by turns."""

    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        if seed % 2:
            root = fresh(folder / "masks", "PNGImages", "PedMasks")
            for name in ("a", "b"):
                picture(root / "PNGImages" / f"{name}.png", draw)
                mask(root / "PedMasks" / f"{name}_mask.png", draw)
            converted("pennfudan", str(root), "-o", str(root / "out.json"), *options(draw))
            return
        root = fresh(folder / "masks", *(f"{name}/{part}" for name in "ab" for part in ("images", "masks")))
        for name in ("a", "b"):
            picture(root / name / "images" / f"{name}.png", draw)
            mask(root / name / "masks" / "0.png", draw)
            if draw.random() < 0.1:
                (root / name / draw.choice(("images/2.png", "masks/1.png"))).mkdir()
        converted("dsb2018", str(root), "-o", str(root / "out.json"), *options(draw))

    return attempt


@kind
def labelme_folders(folder: Path) -> Attempt:
    png = io.BytesIO()
    Image.new("1", (4, 6), 1).save(png, "PNG")
    shape = {"label": "a", "points": [[1, 1], [20, 3], [9, 30]], "group_id": None, "shape_type": "polygon"}
    mask_shape = shape | {"points": [[2, 3], [5, 8]], "shape_type": "mask"}
    mask_shape["mask"] = base64.b64encode(png.getvalue()).decode()
    content = {
        "version": "5.0.1",
        "shapes": [
            shape,
            shape | {"group_id": 1},
            shape | {"group_id": 1, "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
            shape | {"points": [[10, 10], [10, 14]], "shape_type": "circle"},
            mask_shape,
        ],
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 64,
        "imageWidth": 64,
    }

    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        root = fresh(folder / "labelme")
        picture(root / "a.png", draw)
        mutated = dict(content)
        if draw.random() < 0.3:
            data = (root / "a.png").read_bytes()
            mutated |= {"imagePath": "gone.png", "imageData": base64.b64encode(data).decode()}
        (root / "a.json").write_bytes(corpus.json_text(mutated, draw))
        more = ["--copy-images", str(root / "copies")] if draw.random() < 0.3 else []
        converted("labelme", str(root), "-o", str(root / "out.json"), *options(draw), *more)

    return attempt


def fresh(root: Path, *folders: str) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name in folders:
        (root / name).mkdir(parents=True)
    return root


def picture(path: Path, draw: random.Random, size: tuple[int, int] = (64, 64)) -> None:
    """One time in five a hostile one."""
    if draw.random() < 0.2:
        path.write_bytes(corpus.picture(draw))
    else:
        Image.new("RGB", size).save(path)


def mask(path: Path, draw: random.Random) -> None:
    """Every second time a hostile one."""
    if draw.random() < 0.5:
        path.write_bytes(corpus.picture(draw))
        return
    pixels = np.zeros((64, 64), np.uint8)
    pixels[5:20, 7:30] = draw.choice((1, 7, 255))
    Image.fromarray(pixels).save(path)


def options(draw: random.Random) -> list[str]:
    """Of the converter."""
    chosen = ["--masks", draw.choice(("auto", "polygon", "rle"))]
    chosen += ["--orientation", draw.choice(("auto", "upright", "stored"))]
    return [*chosen, "--skip-missing"] if draw.random() < 0.3 else chosen


@kind
def checkpoints(folder: Path) -> Attempt:
    """Loaded as weights; every third as the last checkpoint of a run that is resumed."""
    state = nn.Linear(2, 3).state_dict()
    canary = folder / "code has run"

    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        path = folder / f"model_0000001{draw.choice(('.pth', '.pkl', '.pyth', '.safetensors', ''))}"
        checkpoint(path, state, draw, canary)
        try:
            if seed % 3:
                DetectionCheckpointer(nn.Linear(2, 3), whole=bool(seed % 2)).load(str(path))
            else:
                (folder / "last_checkpoint").write_text(path.name)
                DetectionCheckpointer(nn.Linear(2, 3), str(folder)).resume_or_load("", resume=True)
        finally:
            path.unlink()
            assert not canary.exists()

    return attempt


@kind
def configs(folder: Path) -> Attempt:
    """The config of a run folder, as predict.py opens it; every fifth model is built."""
    canary = folder / "code has run"
    (folder / "empty.yaml").write_text("MODEL: {DEVICE: cpu}")
    saved = []
    for name in (str(TINY), str(folder / "empty.yaml")):
        load_config(name, ["+train.device=cpu"] if name.endswith(".py") else []).save(str(folder / "c.yaml"))
        saved.append(yaml.unsafe_load((folder / "c.yaml").read_text()))
    saved[1] = {key: saved[1][key] for key in ("MODEL", "DATASETS", "INPUT", "SOLVER", "TEST", "VERSION")}

    def attempt(seed: int) -> None:
        draw = random.Random(seed)
        path = folder / "config.yaml"
        tree = mutated_config(saved[seed % 4 == 3], draw, canary)
        path.write_bytes(corpus.yaml_text(tree, draw))
        other_bases(folder, draw)
        try:
            config = load_config(str(path), trusted=False)
            fit_to_device(config, "cpu")
            config.set_score_threshold(0.5)
            if seed % 5 == 0:
                config.build_model()
                config.build_test_mapper()
        finally:
            assert not canary.exists()

    return attempt


def forget_sets(known: set[str]) -> None:
    """Removes the data sets that an attempt has registered."""
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
