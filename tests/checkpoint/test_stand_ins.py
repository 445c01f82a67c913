"""Checkpoints of MMDetection 3, with the log buffers of an MMEngine that is not installed."""

import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch

from mrcnn_plugin.checkpoint import UnsafeCheckpointError, read_checkpoint


@pytest.fixture
def save_with_mmengine(tmp_path, monkeypatch):
    """Saves what `make(HistoryBuffer)` gives, while a module of MMEngine's name exists; returns the path."""

    class HistoryBuffer:
        @classmethod
        def mean(cls):
            raise AssertionError("a checkpoint called a method of its own choice")

        def __init__(self):
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1], dtype=np.int64)
            # As MMEngine's: pickle names it by getattr(HistoryBuffer, "mean").
            self._statistics_methods = OrderedDict(mean=HistoryBuffer.mean)

    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"

    def save(make, **kwargs):
        with monkeypatch.context() as during:
            for name in ("mmengine", "mmengine.logging"):
                during.setitem(sys.modules, name, types.ModuleType(name))
            during.setitem(sys.modules, module.__name__, module)
            path = tmp_path / "epoch_12.pth"
            torch.save(make(HistoryBuffer), path, **kwargs)
        assert "mmengine" not in sys.modules
        return path

    return save


def checkpoint(buffer, **more):
    return {
        "meta": {"epoch": 12, "dataset_meta": {"CLASSES": ("cat", "dog")}},
        "state_dict": OrderedDict(weight=torch.arange(6.0).reshape(2, 3)),
        "message_hub": {
            "log_scalars": OrderedDict({"train/loss": buffer()}),
            "runtime_info": OrderedDict(epoch=12, loss=np.float64(0.5)),
        },
        **more,
    }


def test_weights_beside_log_buffers_are_read_without_mmengine(save_with_mmengine, caplog):
    path = save_with_mmengine(checkpoint)
    with caplog.at_level("INFO"):
        data = read_checkpoint(path)
    assert data.keys() == {"meta", "state_dict"}
    assert data["meta"]["dataset_meta"]["CLASSES"] == ("cat", "dog")
    assert torch.equal(data["state_dict"]["weight"], torch.arange(6.0).reshape(2, 3))
    assert "left out message_hub" in caplog.text


def test_another_class_in_such_a_file_is_still_refused(save_with_mmengine):
    class Payload:
        def __reduce__(self):
            return print, ("code that a checkpoint ran",)

    path = save_with_mmengine(lambda buffer: checkpoint(buffer, optimizer=Payload()))
    with pytest.raises(UnsafeCheckpointError, match=r"epoch_12\.pth was not read"):
        read_checkpoint(path)


def test_getattr_alone_does_not_make_a_file_one_of_mmengine(tmp_path):
    class Payload:
        def __reduce__(self):
            return getattr, (torch.float32, "itemsize")

    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Payload()}, tmp_path / "m.pth")
    with pytest.raises(UnsafeCheckpointError, match="getattr"):
        read_checkpoint(tmp_path / "m.pth")


def test_buffers_among_the_weights_leave_no_weights(save_with_mmengine):
    """Nothing is put in place of a tensor."""
    path = save_with_mmengine(lambda buffer: {"state_dict": {"w": torch.ones(1), "x": buffer()}, "meta": {}})
    assert read_checkpoint(path) == {"meta": {}}
