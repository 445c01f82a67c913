"""The report names what is there, and what is not."""

import pytest
import torch

from mrcnn_plugin import collect_env
from mrcnn_plugin.ops import library, self_check


def test_report_names_versions_libraries_and_shims():
    report = collect_env.collect_env()
    assert torch.__version__ in report
    assert "Detectron2 " in report
    assert "numpy aliases" in report
    assert "not imported yet" not in report


def test_a_library_that_is_not_loaded_says_why(monkeypatch):
    monkeypatch.setitem(library.STATUS, "cuda", "this torch was built without CUDA")
    assert ("cuda", "_C_cuda.so", "not loaded: this torch was built without CUDA") in collect_env.libraries()


def test_the_instruction_set_in_use_is_named(monkeypatch):
    if library.STATUS["cpu"] is not None:
        pytest.skip("the native library was not built")
    monkeypatch.setenv("MRCNN_PLUGIN_SIMD", "baseline")
    assert ("cpu", "_C.so", "loaded, instruction set baseline") in collect_env.libraries()
    monkeypatch.setenv("MRCNN_PLUGIN_SIMD", "sse")
    (state,) = (state for device, _, state in collect_env.libraries() if device == "cpu")
    assert "every op raises" in state
    assert "got 'sse'" in state


def test_a_missing_distribution_is_said_to_be_missing():
    assert collect_env._version("no-such-distribution") == "not installed"


def test_check_prints_a_table_and_sets_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(collect_env, "collect_env", lambda: "")
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": None})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = {"cpu": "", "cuda:0": "result 0 is 1, expected 2"}
    monkeypatch.setattr(self_check, "differences", lambda device, thorough: [("an_op", found[device])])
    assert collect_env.main(["--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "cpu     an_op  agrees" in lines
    assert "cuda:0  an_op  differs: result 0 is 1, expected 2" in lines
    found["cuda:0"] = ""
    assert collect_env.main(["--check"]) == 0
    assert collect_env.main([]) == 0
