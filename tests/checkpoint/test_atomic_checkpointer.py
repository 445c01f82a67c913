"""Checkpoints are whole or absent; weights that do not fit are refused where they must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrcnn_plugin.checkpoint.atomic_checkpointer import AtomicCheckpointer, check_weights
from mrcnn_plugin.errors import ConfigError


def test_a_write_that_breaks_off_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    model = nn.Linear(2, 3)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_a", iteration=1)
    weight = model.weight.detach().clone()
    save = torch.save

    def broken(data, path):
        save(data, path)
        with open(path, "r+b") as file:
            file.truncate(100)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    nn.init.zeros_(model.weight)
    for name in ("model_a", "model_b"):
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(name, iteration=2)
    assert {path.name for path in tmp_path.iterdir()} == {"model_a.pth", "last_checkpoint"}
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_a.pth")
    assert checkpointer.resume_or_load("")["iteration"] == 1
    assert torch.equal(model.weight, weight)


def test_whole(tmp_path):
    AtomicCheckpointer(nn.Linear(2, 3), str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    AtomicCheckpointer(nn.Linear(2, 3), whole=True).load(path)
    AtomicCheckpointer(nn.Linear(2, 4)).load(path)
    with pytest.raises(ConfigError, match=r"2 of its parameters .* such as 'weight'"):
        AtomicCheckpointer(nn.Linear(2, 4), whole=True).load(path)
    with pytest.raises(ConfigError, match=r"such as '0\.weight'"):
        AtomicCheckpointer(nn.Sequential(nn.Linear(2, 3)), whole=True).load(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_file(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights '.*bad\.pth' cannot be loaded: ") as error:
        AtomicCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "bad.pth"))
    assert "\n" not in str(error.value)


def test_check_weights(tmp_path):
    (tmp_path / "here.pth").touch()
    for path in ("", str(tmp_path / "here.pth"), "detectron2://somewhere.pkl", "https://host/x.pth"):
        check_weights(path, "key")
    with pytest.raises(ConfigError, match="key: no weights at"):
        check_weights(str(tmp_path / "absent.pth"), "key")
