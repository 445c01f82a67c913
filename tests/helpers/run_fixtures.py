"""Small drawn data sets, and a finished run on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_runs import tiny_arguments, train_in_process

from mrcnn_plugin.data.synthetic.shapes import SetParameters, ensure_set


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRCNN_PLUGIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> dict[str, str]:
    """Names (coco:JSON:IMAGES) of a training and a test set of a few 64-pixel images."""
    root = tmp_path_factory.mktemp("shapes")
    names = {}
    for split in ("train", "val"):
        paths = ensure_set(root, "shapes", split, SetParameters("shapes", split, images=6, size=64))
        names[split] = f"coco:{paths.json_file}:{paths.image_root}"
    return names


@pytest.fixture
def train(shapes):
    """Runs main() in this process: train(folder, *more arguments) -> exit status."""
    return lambda folder, *more: train_in_process(tiny_arguments(shapes, folder, *more))


@pytest.fixture(scope="session")
def finished_run(shapes, tmp_path_factory) -> Path:
    """The folder of a finished run of a few iterations."""
    folder = tmp_path_factory.mktemp("run")
    assert train_in_process(tiny_arguments(shapes, folder)) == 0
    return folder
