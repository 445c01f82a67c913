"""Checkpoints that are cut short, hold NaN, or unfold without end; and what is resumed from instead."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, read_checkpoint
from mrcnn_plugin.checkpoint.reading import DamagedCheckpointError, is_intact
from mrcnn_plugin.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints, of iterations 1, 2 and 3, whose weights are 1, 2 and 3."""
    model = nn.Linear(2, 3)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    for iteration in (1, 2, 3):
        nn.init.constant_(model.weight, iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return tmp_path


def resumed(folder) -> tuple[int, float]:
    model = nn.Linear(2, 3)
    extra = DetectionCheckpointer(model, str(folder)).resume_or_load("", resume=True)
    return extra["iteration"], float(model.weight.detach()[0, 0])


def truncate(path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def flip(path) -> None:
    """One bit of a weight, as a disk may flip it."""
    data = bytearray(path.read_bytes())
    at = data.find(np.full(6, 3, "f4").tobytes())
    assert at > 0
    data[at + 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: truncate(path, path.stat().st_size // 2),
        lambda path: truncate(path, path.stat().st_size - 1),
        lambda path: truncate(path, 0),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        flip,
    ],
    ids=["half", "a byte short", "empty", "gone", "zeros", "a bit flipped"],
)
def test_the_checkpoint_before_a_damaged_one_is_taken_and_said_so(folder, caplog, damage):
    assert resumed(folder) == (3, 3.0)
    damage(folder / "model_0000003.pth")
    assert resumed(folder) == (2, 2.0)
    assert "model_0000003.pth is damaged or missing; looking at the checkpoint before it" in caplog.text
    damage_two = folder / "model_0000002.pth"
    truncate(damage_two, 100)
    assert resumed(folder) == (1, 1.0)


def test_no_checkpoint_is_left(folder):
    for path in folder.glob("*.pth"):
        truncate(path, 10)
    with pytest.raises(
        ConfigError, match=r"has no checkpoint that can be read .*start anew without --resume"
    ):
        resumed(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../etc/passwd", b"\n"])
def test_a_garbled_note_of_the_last_checkpoint(folder, content):
    (folder / "last_checkpoint").write_bytes(content)
    assert resumed(folder)[0] in (2, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    torch.save({"weight": torch.full((3, 2), value), "bias": torch.zeros(3)}, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match="NaN or infinity in 1 tensors, such as 'weight'"):
        DetectionCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "m.pth"))


ODD = {
    "endless": torch.zeros(1).expand(1 << 45),
    "endless matrix": torch.zeros(1).expand(3, 2),
    "sparse": torch.eye(3).to_sparse(),
    "quantised": torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.quint8),
    "complex": torch.ones(3, 2, dtype=torch.complex64),
    "meta": torch.ones(3, 2, device="meta"),
}


@pytest.mark.parametrize("tensor", ODD.values(), ids=ODD)
def test_tensors_that_are_not_held_in_full(tmp_path, tensor):
    torch.save({"weight": tensor}, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match=r"m\.pth") as error:
        DetectionCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "m.pth"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "contents",
    [
        [1, 2],
        {"model": {1: torch.ones(1)}},
        {"model": {"weight": "text"}},
        {"model": {"weight": {"a": 1}}},
        {"model": {}, "matching_heuristics": True},
        {"matching_heuristics": True, "model": {"weight": torch.ones(5)}},
    ],
)
def test_contents_of_another_kind(tmp_path, contents):
    torch.save(contents, tmp_path / "m.pth")
    with pytest.raises(ConfigError) as error:
        DetectionCheckpointer(nn.Linear(2, 3), whole=True).load(str(tmp_path / "m.pth"))
    assert "\n" not in str(error.value)


def test_a_zip_bomb(tmp_path):
    torch.save({"weight": torch.zeros(100_000)}, tmp_path / "m.pth")
    with (
        zipfile.ZipFile(tmp_path / "m.pth") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in stored.infolist():
            bomb.writestr(entry.filename, stored.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 10_000
    with pytest.raises(DamagedCheckpointError, match="unpack to"):
        read_checkpoint(tmp_path / "bomb.pth")
    assert is_intact(tmp_path / "m.pth")


def test_a_pickle_that_unfolds_without_end(tmp_path):
    laughs: list = [1.0]
    for _ in range(60):
        laughs = [laughs] * 10
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"a": laughs}}))
    data = read_checkpoint(tmp_path / "m.pkl")["model"]["a"]
    for _ in range(60):
        data = data[0]
    assert data == [1.0]


def test_a_pickle_that_promises_more_bytes_than_there_are(tmp_path):
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.")
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(tmp_path / "m.pkl")
