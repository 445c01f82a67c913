"""The tiny config's command line, and what its runs leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import torch

from mrcnn_plugin.train import argument_parser, main

TINY = Path(__file__).with_name("tiny_mask_rcnn.py")
ROOT = Path(__file__).resolve().parents[2]


def tiny_arguments(shapes: Mapping[str, str], folder: Path, *more: str) -> list[str]:
    """Command line of a run of the tiny config on `shapes` in `folder`."""
    return [
        "--config-file",
        str(TINY),
        f"train.output_dir={folder}",
        f"dataloader.train.dataset.names={shapes['train']}",
        f"dataloader.test.dataset.names={shapes['val']}",
        *more,
    ]


def train_in_process(arguments: list[str]) -> int:
    """The exit status of train_net.py's main() with these arguments."""
    return main(argument_parser().parse_intermixed_args(arguments))


def start(
    *command: str,
    paths: Iterable[Path] = (),
    output: IO | int = subprocess.PIPE,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen:
    """A Python script in a process of its own, its output in pipes or a file; it imports from `paths` too."""
    path = os.pathsep.join(map(str, [ROOT, *paths]))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    streams = {"stdout": output, "stderr": output, "text": True}
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, **streams)


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def load(path: Path) -> dict:
    """A checkpoint's contents."""
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same(first: object, second: object, where: str = "") -> None:
    """Equality to the bit, through nested containers of tensors."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (a, b) in enumerate(zip(first, second)):
            assert_same(a, b, f"{where}.{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where
