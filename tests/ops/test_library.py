"""Which kernels answer, and what is said where none do."""

import warnings

import pytest
import torch

from mrcnn_plugin.ops import library


@pytest.fixture(autouse=True)
def fresh_warnings():
    library._warn_once.cache_clear()
    yield
    library._warn_once.cache_clear()


def test_native_follows_what_was_loaded(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": None})
    monkeypatch.setattr(library, "_checked", ["a device"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(library.native(device) for device in ("cpu", "cuda", "meta"))


def test_a_missing_library_is_said_once_with_its_reason(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": "_C_cuda.so was not built"})
    with pytest.warns(UserWarning, match=r"native ops for cuda.*_C_cuda\.so was not built.*To fix it"):
        assert not library.native("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not library.native("cuda")


def test_a_device_without_kernels_is_named(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": None})
    with pytest.warns(UserWarning, match="no kernels exist for device type 'xpu'"):
        assert not library.native("xpu")


def test_without_schemas_even_fake_tensors_use_the_reference(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": "_C.so was not built", "cuda": "_C.so was not built"})
    with pytest.warns(UserWarning, match="was not built"):
        assert not library.native("meta")


def test_a_missing_file_and_a_broken_file_are_told_apart(monkeypatch, tmp_path):
    missing, broken = tmp_path / "_C.so", tmp_path / "_C_broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "FILES", {"cpu": missing})
    assert "was not built" in library._load("cpu")
    monkeypatch.setattr(library, "FILES", {"cpu": broken})
    assert "could not be loaded" in library._load("cpu")


def test_a_torch_without_cuda_does_not_load_cuda_kernels(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert library._load("cuda") == "this torch was built without CUDA"
