"""Damaged and malicious files are trained on, skipped with a name, or told in one line: no crash, no hang.

A slice of the seeds runs by default; MRCNN_PLUGIN_MUTATIONS (`make drills`: 2000) is how many of each kind.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.tiny_runs import TINY
from hostile import corpus
from PIL import Image
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer
from mrcnn_plugin.config import fit_to_dataset, load_config
from mrcnn_plugin.config.lazy import adapt
from mrcnn_plugin.data import ResumableLoader
from mrcnn_plugin.data.convert.command_line import main as convert
from mrcnn_plugin.errors import ConfigError, DatasetError, ImageError, first_line
from mrcnn_plugin.predict import Predictor
from mrcnn_plugin.train.command_line import check_data

_MUTATIONS = int(os.environ.get("MRCNN_PLUGIN_MUTATIONS", "0"))
# Far more than any of these inputs takes, on a busy machine.
_SECONDS = 60


def seeds(few: int) -> range:
    return range(_MUTATIONS or few)


@contextlib.contextmanager
def told(outcomes: Counter, kind: str, seed: int) -> Iterator[None]:
    """Counts how one input ends; anything but success or one line of ours fails, with its seed."""

    def hang(signum: int, frame: object) -> None:
        raise AssertionError(f"{kind} {seed} hangs")

    former = signal.signal(signal.SIGALRM, hang)
    signal.alarm(_SECONDS)
    try:
        yield
        outcomes["taken"] += 1
    except (ConfigError, DatasetError, ImageError) as error:
        # A data loader's process hands its traceback over; the programs print the last line.
        text = first_line(error) if "Traceback" in str(error) else str(error)
        assert text
        assert "\n" not in text, f"{kind} {seed}: {text}"
        outcomes["told"] += 1
    except Exception as error:
        raise AssertionError(f"{kind} {seed} ends in {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def both(outcomes: Counter, total: int) -> None:
    """Some inputs were harmless and some were not: else this tests nothing."""
    assert sum(outcomes.values()) == total
    assert outcomes["told"] > total // 20, outcomes
    print(dict(outcomes))


def files_of(shapes: dict[str, str]) -> tuple[Path, Path]:
    json_file, _, images = shapes["train"].removeprefix("coco:").rpartition(":")
    return Path(json_file), Path(images)


def load_two_batches(config, names: str) -> None:
    """What train_net.py does with data before the first step, and two batches of it."""
    try:
        fit_to_dataset(config)
        check_data(config, training=True)
        loader = config.build_train_loader()
        for _, batch in zip(range(2), ResumableLoader(loader, seed=1)):
            assert all(isinstance(image["image"], torch.Tensor) for image in batch)
    finally:
        if names in DatasetCatalog.list():
            DatasetCatalog.remove(names)
            MetadataCatalog.pop(names, None)


@pytest.fixture(scope="module")
def config_of():
    """The tiny config on the data set of a name."""
    loaded = load_config(str(TINY), ["+train.device=cpu"])

    def on(names: str):
        raw = copy.deepcopy(loaded.raw)
        raw.dataloader.train.dataset.names = raw.dataloader.test.dataset.names = names
        return adapt(raw, str(TINY), ())

    return on


def test_coco_files(shapes, tmp_path, config_of):
    json_file, images = files_of(shapes)
    dataset = json.loads(json_file.read_text())
    outcomes: Counter = Counter()
    for seed in seeds(30):
        path = tmp_path / f"{seed}.json"
        path.write_bytes(corpus.json_text(dataset, random.Random(seed)))
        names = f"coco:{path}:{images}"
        with told(outcomes, "COCO file", seed):
            load_two_batches(config_of(names), names)
    both(outcomes, len(seeds(30)))


def test_images_in_training(shapes, tmp_path, caplog, config_of):
    json_file, images = files_of(shapes)
    dataset = json.loads(json_file.read_text())
    outcomes: Counter = Counter()
    for seed in seeds(6):
        draw = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        for image in dataset["images"]:
            data = (images / image["file_name"]).read_bytes()
            if seed % 3 == 0:
                data = data[: draw.randrange(20)]
            elif draw.random() < 0.5:
                data = corpus.picture(draw)
            (folder / image["file_name"]).write_bytes(data)
        names = f"coco:{tmp_path / f'{seed}.json'}:{folder}"
        (tmp_path / f"{seed}.json").write_text(json.dumps(dataset))
        with told(outcomes, "images", seed):
            load_two_batches(config_of(names), names)
    both(outcomes, len(seeds(6)))
    assert "skipped " in caplog.text


def test_images_in_prediction(tmp_path):
    config = load_config(str(TINY), ["+train.device=cpu"])
    predictor = Predictor(config, config.build_model().eval(), MetadataCatalog.get("hostile"), 0.5)
    outcomes: Counter = Counter()
    for seed in seeds(20):
        draw = random.Random(seed)
        path = tmp_path / corpus.image_name(draw)
        path.write_bytes(corpus.picture(draw))
        with told(outcomes, "image", seed):
            instances, image = predictor.predict(str(path))
            assert image.dtype == np.uint8
            assert image.shape == (*instances.image_size, 3)
    both(outcomes, len(seeds(20)))


def test_yolo_folders(tmp_path, capsys):
    outcomes: Counter = Counter()
    for seed in seeds(20):
        draw = random.Random(seed)
        root = tmp_path / str(seed)
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True)
        for name in ("a", "b"):
            data = corpus.picture(draw) if draw.random() < 0.3 else None
            Image.new("RGB", (20, 10)).save(root / "images" / f"{name}.png")
            if data is not None:
                (root / "images" / f"{name}.png").write_bytes(data)
            label = b"0 0.1 0.1 0.9 0.1 0.5 0.9\n1 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4\n"
            (root / "labels" / f"{name}.txt").write_bytes(
                corpus.damaged(label, draw) if draw.random() < 0.7 else label
            )
        names = corpus.mutated({"names": ["cat", "dog"], "train": "images"}, draw)
        text = yaml.safe_dump({"names": ["cat", "dog"]} if draw.random() < 0.6 else names).encode()
        (root / "data.yaml").write_bytes(corpus.damaged(text, draw) if draw.random() < 0.2 else text)
        with told(outcomes, "YOLO folder", seed):
            status = convert(["yolo", str(root), "-o", str(root / "out.json"), "--boxes", "rectangle"])
            _expect(status, capsys.readouterr().err)
    both(outcomes, len(seeds(20)))


def test_mask_folders(tmp_path, capsys):
    outcomes: Counter = Counter()
    for seed in seeds(20):
        draw = random.Random(seed)
        root = tmp_path / str(seed)
        for name in ("a", "b"):
            for folder in ("images", "masks"):
                (root / name / folder).mkdir(parents=True)
            Image.new("RGB", (64, 64)).save(root / name / "images" / f"{name}.png")
            mask = np.zeros((64, 64), np.uint8)
            mask[5:20, 7:30] = 255
            Image.fromarray(mask).save(root / name / "masks" / "0.png")
            if draw.random() < 0.7:
                (root / name / draw.choice(("masks/0.png", "masks/1.png", f"images/{name}.png"))).write_bytes(
                    corpus.picture(draw)
                )
        with told(outcomes, "mask folder", seed):
            status = convert(["dsb2018", str(root), "-o", str(root / "out.json")])
            _expect(status, capsys.readouterr().err)
    both(outcomes, len(seeds(20)))


def _expect(status: object, errors: str) -> None:
    """The converter's program tells an error itself; here it counts as told."""
    if status:
        lines = errors.strip().splitlines()
        assert len(lines) == 1, errors
        raise DatasetError(lines[0])


def test_checkpoints(tmp_path):
    model = nn.Linear(2, 3)
    state = model.state_dict()
    outcomes: Counter = Counter()
    for seed in seeds(60):
        draw = random.Random(seed)
        path = tmp_path / f"m{draw.choice(('.pth', '.pkl', '.pyth', '.safetensors', ''))}"
        corpus.checkpoint(path, state, draw)
        with told(outcomes, "checkpoint", seed):
            DetectionCheckpointer(nn.Linear(2, 3), whole=bool(seed % 2)).load(str(path))
    both(outcomes, len(seeds(60)))


@pytest.fixture(scope="module")
def saved_configs(tmp_path_factory) -> list[dict]:
    """What the folders of two runs hold, a LazyConfig's and a CfgNode's."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "empty.yaml").write_text("MODEL: {DEVICE: cpu}")
    made = []
    for name in (str(TINY), str(folder / "empty.yaml")):
        load_config(name, ["+train.device=cpu"] if name.endswith(".py") else []).save(str(folder / "c.yaml"))
        made.append(yaml.unsafe_load((folder / "c.yaml").read_text()))
    return made


def test_configs(saved_configs, tmp_path):
    """The config of a run folder, as predict.py opens it; every third model is built."""
    outcomes: Counter = Counter()
    for seed in seeds(30):
        draw = random.Random(seed)
        tree = corpus.mutated(saved_configs[seed % 4 == 3], draw)
        text = yaml.dump(tree).encode("utf-8", "surrogatepass")
        path = tmp_path / "config.yaml"
        path.write_bytes(corpus.damaged(text, draw) if draw.random() < 0.2 else text)
        with told(outcomes, "config", seed):
            config = load_config(str(path), trusted=False)
            config.set_score_threshold(0.5)
            if seed % 3 == 0 and isinstance(config.raw.get("dataloader"), dict | type(config.raw)):
                config.build_model()
                config.build_test_mapper()
    both(outcomes, len(seeds(30)))
