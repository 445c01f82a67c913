"""The check of the first CUDA call, and the switch that does without the kernels."""

from __future__ import annotations

import warnings

import pytest
import torch

from mrcnn_plugin.ops import library, self_check

NAMES = [check.name for check in self_check.checks(thorough=True)]


def test_every_op_is_checked():
    schemas = torch._C._jit_get_all_schemas()
    ops = {s.name.split("::")[1] for s in schemas if s.name.startswith("mrcnn_plugin::")}
    ops -= {"multi_level_roi_align_backward", "simd_level", "has_matrix_tiles"}
    # Of torchvision's op, on every device.
    ops -= {"nms_mask"}
    # Of the CPU alone.
    ops -= {name for name in ops if name.startswith(("winograd_", "split_"))}
    for thorough in (False, True):
        checked = {check.name.split(",")[0].split(" ")[0] for check in self_check.checks(thorough)}
        assert checked == ops
    assert "multi_level_roi_align and backward, bfloat16, channels last, max" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree(backend, name):
    (check,) = (check for check in self_check.checks(thorough=True) if check.name == name)
    with backend.ops():
        results = check.native(backend.device)
    for expected in (check.native("cpu"), check.twin()):
        assert self_check._difference(results, expected, check.tolerance) == ""
    assert any(result.numel() and result.any() for result in results), "the input exercises the op"


def fake_check(results, fails=False):
    def native(device):
        if fails and device != "cpu":
            raise RuntimeError("no kernel image is available\nfor execution")
        return results[device]

    return self_check.Check("some_op", native, lambda: results["twin"], tolerance=1e-5)


@pytest.mark.parametrize(
    ("result", "what"),
    [
        ([1.0, 2.0], ""),
        ([1.0, 2.00001], ""),
        ([1.0, 2.5], "result 0 is 2.5 at 1 of 2, expected 2"),
        ([1.0, float("nan")], "result 0 is nan at 1 of 2, expected 2"),
        ([1.0], r"result 0 is torch.float32 of shape (1,), expected torch.float32 of shape (2,)"),
    ],
)
def test_what_differs_is_said(monkeypatch, result, what):
    results = {"cpu": [torch.tensor([1.0, 2.0])], "cuda:0": [torch.tensor(result)]}
    monkeypatch.setattr(self_check, "checks", lambda thorough: [fake_check(results)])
    assert self_check.differences("cuda:0") == [("some_op", what)]


def test_the_cpu_is_compared_with_the_twin_and_a_failure_is_said(monkeypatch):
    results = {"cpu": [torch.ones(1)], "twin": [torch.zeros(1)]}
    monkeypatch.setattr(self_check, "checks", lambda thorough: [fake_check(results)])
    assert self_check.differences("cpu") == [("some_op", "result 0 is 1 at 0 of 1, expected 0")]
    monkeypatch.setattr(self_check, "checks", lambda thorough: [fake_check(results, fails=True)])
    assert self_check.differences("cuda:1") == [("some_op", "fails: no kernel image is available")]


@pytest.fixture
def cuda_device(monkeypatch):
    """As if CUDA kernels were loaded and there were a device; counts how often it is checked."""
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": None})
    monkeypatch.setattr(library, "_checked", [])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")


def test_the_first_call_is_checked_and_no_other(cuda_device, monkeypatch):
    calls = []
    monkeypatch.setattr(self_check, "differences", lambda device: calls.append(device) or [("op", "")])
    assert library.native("cpu")
    assert library.native("meta")
    assert not calls
    assert library.native("cuda")
    assert library.native("cuda")
    assert calls == ["cuda:3"]


def test_a_disagreement_raises_at_every_call(cuda_device, monkeypatch):
    monkeypatch.setattr(self_check, "differences", lambda device: [("a", ""), ("b", "result 0 is 1")])
    for _ in range(2):
        message = (
            r"cuda:3 \(Some GPU\) do not agree with the CPU's: b \(result 0 is 1\)\. Set MRCNN_PLUGIN_CUDA=0"
        )
        with pytest.raises(RuntimeError, match=message):
            library.native("cuda")


def test_no_check_while_a_graph_is_captured_or_compiled(cuda_device, monkeypatch):
    monkeypatch.setattr(self_check, "differences", lambda device: pytest.fail("was checked"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert library.native("cuda")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert library.native("cuda")


def test_the_switch(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("MRCNN_PLUGIN_CUDA", "0")
    assert library._load("cuda") == "MRCNN_PLUGIN_CUDA=0 is set"
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": "MRCNN_PLUGIN_CUDA=0 is set"})
    library._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not library.native("cuda")
    library._warn_once.cache_clear()
    (message,) = (str(one.message) for one in caught)
    assert "MRCNN_PLUGIN_CUDA=0 is set" in message
    assert "compiler" not in message
