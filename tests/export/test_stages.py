"""The first stage that differs, with a file that is the model itself but for one weight."""

from __future__ import annotations

import copy
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exported_models import MODELS, description_of, image_of, random_model

from mrcnn_plugin.export import DetectionGraph, stages
from mrcnn_plugin.export.stages import StagesGraph, first_stage
from mrcnn_plugin.runtime import ExportedModel

ABOUT = description_of([])


class Changed(ExportedModel):
    """Stages of a model, in PyTorch."""

    def __init__(self, graph: StagesGraph) -> None:
        super().__init__(ABOUT)
        self._graph = graph

    @torch.no_grad()
    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self._graph(torch.from_numpy(image)).items()}


@pytest.fixture(scope="module")
def graph() -> DetectionGraph:
    return DetectionGraph(random_model(MODELS["Mask R-CNN, FPN"]())).eval()


@pytest.mark.parametrize(
    ("weight", "stage"),
    [
        ("backbone.bottom_up.res3.1.conv1.weight", "backbone.bottom_up.res3"),
        ("backbone.fpn_output4.weight", "backbone.fpn_output4"),
        (
            "proposal_generator.rpn_head.objectness_logits.bias",
            "proposal_generator.rpn_head.objectness_logits",
        ),
        ("roi_heads.box_head.fc2.weight", "roi_heads.box_head.fc2"),
        ("roi_heads.mask_head.deconv.weight", "roi_heads.mask_head.deconv"),
        ("", "none once all stages are given out"),
    ],
)
@torch.no_grad()
def test_first_stage_is_the_one_whose_weight_was_changed(graph, monkeypatch, weight, stage):
    changed = copy.deepcopy(graph)
    if weight:
        changed.model.get_parameter(weight).mul_(1.1).add_(0.01)
    names = list(StagesGraph(graph)(image_of(64, 96)))
    program = types.SimpleNamespace(
        call_spec=types.SimpleNamespace(out_spec=types.SimpleNamespace(context=names))
    )
    monkeypatch.setattr(stages, "trace", lambda graph, size: program)
    monkeypatch.setitem(stages.WRITERS, "pt2", lambda program, description, path: Path(path).touch())
    monkeypatch.setattr(stages, "load", lambda path: Changed(StagesGraph(changed)))
    found = first_stage(graph, ABOUT, "pt2", np.ascontiguousarray(image_of(64, 96).numpy()))
    assert found.startswith(stage)
    # Proposals come before what the heads make of them.
    assert names.index("proposals") < names.index("roi_heads.box_head.fc1")
