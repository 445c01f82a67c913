"""A compiled backbone is used where it is equal and faster; else the backbone stays as it is, with a line."""

from __future__ import annotations

import copy
import logging
import time

import pytest
import torch
from torch import nn

from mrcnn_plugin.optimization import compilation
from mrcnn_plugin.optimization.compilation import CompiledSizes, compile_backbone


class Backbone(nn.Module):
    """One map; slow enough for a measurement to see what is faster."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)

    def forward(self, x):
        if not torch.compiler.is_compiling():
            time.sleep(0.004)
        return {"p2": self.conv(x).relu()}


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Packages that are made and loaded by this: compiled(seconds, factor), or an error to raise."""
    made = []

    def use(seconds=0.0, factor=1.0, error=None):
        def compile_size(self, x, package):
            if error:
                raise error
            package.parent.mkdir(parents=True, exist_ok=True)
            package.write_bytes(b"package")
            made.append(package)

        def load(path):
            def run(x):
                time.sleep(seconds)
                return {"p2": model.backbone.conv(x).relu() * factor}

            return run

        monkeypatch.setattr(CompiledSizes, "_compile", compile_size)
        monkeypatch.setattr(torch._inductor, "aoti_load_package", load)

    # A run in this process may have given the package's logger handlers of its own.
    monkeypatch.setattr(logging.getLogger("mrcnn_plugin"), "propagate", True)
    monkeypatch.setenv("MRCNN_PLUGIN_CACHE", str(tmp_path))
    model = nn.Module()
    model.backbone = Backbone()
    compile_backbone(model)
    use.model, use.made = model, made
    return use


def runs(model, times=3, size=16):
    x = torch.rand(1, 3, size, size)
    outputs = [model.backbone(x)["p2"] for _ in range(times)]
    expected = model.backbone.conv(x).relu()
    for output in outputs:
        torch.testing.assert_close(output, expected)
    return model.backbone.forward


def test_the_faster_one_is_used_from_the_second_picture_of_a_size_on(compiled, caplog):
    compiled()
    with caplog.at_level(logging.INFO, compilation.__name__):
        forward = runs(compiled.model)
        # A size that comes once is not compiled.
        runs(compiled.model, times=1, size=24)
    assert len(compiled.made) == len(forward.chosen) == 1
    assert forward.chosen[torch.Size([1, 3, 16, 16])] is not forward._eager
    assert "compiling, once for this size and these weights, into " in caplog.text
    assert "times as fast" in caplog.text


def test_packages_are_kept_between_runs_and_are_of_their_weights(compiled):
    compiled()
    runs(compiled.model)
    again = copy.deepcopy(compiled.model)
    runs(again)
    assert len(compiled.made) == 1
    assert again.backbone.forward is not compiled.model.backbone.forward
    compiled.model.backbone.conv.weight.mul_(2)
    compile_backbone(compiled.model)
    runs(compiled.model)
    assert len(compiled.made) == 2


def test_what_is_slower_is_not_compiled_again(compiled, caplog):
    compiled(seconds=0.01)
    with caplog.at_level(logging.INFO, compilation.__name__):
        forward = runs(compiled.model)
        runs(copy.deepcopy(compiled.model))
    assert forward.chosen[torch.Size([1, 3, 16, 16])] is forward._eager
    assert len(compiled.made) == 1
    assert not compiled.made[0].exists(), "the room on the disk is given back"
    assert "the optimized model runs as it is" in caplog.text
    assert ".slower says is slower" in caplog.text


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"factor": 1.01}, "maps would differ by 0.01 of their size"),
        ({"error": RuntimeError("g++: not found\nmore")}, "runs as it is: g++: not found"),
        ({"error": OSError(28, "No space left on device", "/cache")}, "/cache: No space left on device"),
    ],
)
def test_otherwise_the_backbone_stays_as_it_is(compiled, caplog, behaviour, message):
    compiled(**behaviour)
    forward = runs(compiled.model)
    assert forward.chosen[torch.Size([1, 3, 16, 16])] is forward._eager
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert message in warnings[0]
    assert "\n" not in warnings[0]


@pytest.mark.slow
def test_inductor(tmp_path, monkeypatch):
    """A package of an optimized copy's backbone in bfloat16 gives its maps."""
    from test_optimize import pair

    import mrcnn_plugin

    monkeypatch.setattr(compilation, "_LEAST_GAIN", 0.0)
    monkeypatch.setenv("MRCNN_PLUGIN_CACHE", str(tmp_path))
    faster = mrcnn_plugin.optimize(pair("bottlenecks")[0], precision="bfloat16")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = faster.backbone(x)
        compile_backbone(faster)
        for _ in range(3):
            maps = faster.backbone(x)
    forward = faster.backbone.forward
    assert list(forward.chosen.values()) != [forward._eager]
    assert len(list((tmp_path / "compiled").glob("*.pt2"))) == 1
    assert compilation._difference(maps, expected) < 5e-2
