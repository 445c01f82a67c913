"""The long matrix: every kind of model in every format, on pictures of several sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.exported_models import MODELS, image_of, random_model
from runtimes import describe

from mrcnn_plugin.export import DetectionGraph, load, trace
from mrcnn_plugin.export.formats import WRITERS, onnx_to_openvino
from mrcnn_plugin.export.parity import OriginalModel, Tolerance, compare
from mrcnn_plugin.ops import heatmaps_to_keypoints
from mrcnn_plugin.runtime import FORMATS

SIZES = [(131, 97), (64, 160), (203, 267)]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_format_finds_what_the_model_finds(name, tmp_path):
    model = random_model(MODELS[name]())
    graph = DetectionGraph(model).eval()
    with torch.no_grad():
        outputs = list(graph(image_of(64, 88)))
    description = describe(model, outputs, "BGR", score_threshold=0.05)
    program = trace(graph)
    pictures = [(f"{size}", np.ascontiguousarray(image_of(*size).numpy())) for size in SIZES]
    for format, write in WRITERS.items():
        if format == "aoti":
            # Of one size alone: test_aoti.py.
            continue
        if format == "openvino":
            pytest.importorskip("openvino")
        path = tmp_path / f"model{FORMATS[format][0]}"
        if format == "openvino":
            # What the ONNX file has become; writing it is most of the work.
            onnx_to_openvino(path.with_suffix(".onnx"), description, path)
        else:
            write(program, description, path)
        parity = compare(OriginalModel(model, description), load(path), pictures, Tolerance())
        assert parity.detections == parity.matched > 0
        assert parity.first == "", format


class Decoder(torch.nn.Module):
    def forward(self, maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return heatmaps_to_keypoints(maps, boxes)


def test_keypoints_in_onnx(tmp_path):
    """The loop over RoIs finds the op's peaks, for boxes of fractions of a pixel and none at all."""
    import onnxruntime

    from mrcnn_plugin.export.onnx_ops import translations

    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 3, 14, 14, generator=generator)
    boxes = torch.tensor([[3.5, 2.0, 30.2, 55.0], [0, 0, 0.5, 0.25], [10, 20, 24, 34], [0, 0, 90.7, 60.1]])
    rows = {0: torch.export.Dim("K", min=0, max=100)}
    program = torch.export.export(Decoder(), (maps, boxes), dynamic_shapes=(rows, rows), strict=False)
    path = tmp_path / "decoder.onnx"
    torch.onnx.export(program, (), dynamo=True, custom_translation_table=translations()).save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (4, 1, 0):
        inputs = {"maps": maps[:count].numpy(), "boxes": boxes[:count].numpy()}
        found = torch.from_numpy(session.run(None, inputs)[0])
        torch.testing.assert_close(
            found, heatmaps_to_keypoints(maps[:count], boxes[:count]), atol=1e-4, rtol=0
        )
