"""The run folder of a small model, and what is exported from it once for all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import Metadata
from detectron2.data import transforms as T
from helpers.tiny_runs import TINY
from PIL import Image

from mrcnn_plugin.data import save_metadata
from mrcnn_plugin.export.command_line import argument_parser, main
from mrcnn_plugin.export.program import trace
from mrcnn_plugin.modeling import MaskRCNN


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run folder whose model detects something: its classifier has large random weights."""
    folder = tmp_path_factory.mktemp("exported_run")
    cfg = LazyConfig.load(str(TINY))
    cfg.model._target_ = MaskRCNN
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=96, max_size=128)]
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    # Masks that are not empty, with few pixels so near 0.5 that rounding decides.
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight)
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    names = ["circle", "square", "triangle", "star"]
    ids = {7 + index: index for index in range(4)}
    metadata = Metadata().set(thing_classes=names, thing_dataset_id_to_contiguous_id=ids)
    save_metadata(metadata, str(folder / "metadata.json"))
    return folder


@pytest.fixture(scope="session")
def export(run):
    """Runs export.py's main in this process: export(format, path, *more arguments) -> exit status.

    What was traced is kept, as tracing is most of the work.
    """
    traced = {}

    def traced_once(graph, size=None):
        optimized = bool(graph.model._forward_pre_hooks)
        key = (size, graph._resizing, graph._pasted_masks, optimized)
        if key not in traced:
            traced[key] = trace(graph, size)
        return traced[key]

    def run_main(format: str, path: Path, *more: str) -> int:
        line = ["--run", str(run), "--format", format, "--output", str(path), *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mrcnn_plugin.export.command_line.trace", traced_once)
            return main(argument_parser().parse_args(line))

    return run_main


@pytest.fixture(scope="session")
def exported(export, tmp_path_factory) -> dict[str, Path]:
    """format -> a file for pictures of any size, resized outside."""
    folder = tmp_path_factory.mktemp("exported")
    files = {"onnx": folder / "model.onnx", "pt2": folder / "model.pt2"}
    for format, path in files.items():
        assert export(format, path) == 0
    return files


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """Files of noise of several sizes, with numbers for names.

    None has a flat part: there a random model's scores tie, and sort and topk choose differently.
    """
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    files = []
    for number, (height, width) in enumerate([(96, 128), (131, 77), (40, 90)], 1):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height))
        files.append(folder / f"{number}.png")
        picture.save(files[-1])
    return files
