"""What a config takes from the machine."""

from __future__ import annotations

import pytest
import torch
import yaml
from helpers.tiny_runs import TINY

from mrcnn_plugin.config import fit_to_device, load_config
from mrcnn_plugin.errors import ConfigError


@pytest.mark.parametrize("available", [False, True])
@pytest.mark.parametrize("given", ["cuda", "cuda:1", "auto", "null", "cpu", "meta"])
def test_device_of_a_lazyconfig(monkeypatch, available, given):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    config = load_config(str(TINY), [f"train.device={given}"])
    note = fit_to_device(config)
    kept = given in ("cpu", "meta") or (available and given.startswith("cuda"))
    assert config.device == config.raw.train.device == (given if kept else "cuda" if available else "cpu")
    assert (note is None) == kept


@pytest.mark.parametrize("available", [False, True])
def test_device_of_a_cfgnode(monkeypatch, available, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    (tmp_path / "cuda.yaml").write_text(yaml.safe_dump({"MODEL": {"DEVICE": "cuda"}}))
    config = load_config(str(tmp_path / "cuda.yaml"))
    note = fit_to_device(config)
    assert config.device == config.raw.MODEL.DEVICE == ("cuda" if available else "cpu")
    assert (note is None) == available


def test_requested_device():
    config = load_config(str(TINY))
    assert fit_to_device(config, "meta") is None
    assert config.device == "meta"
    with pytest.raises(ConfigError, match="--device gpu: "):
        fit_to_device(config, "gpu")
