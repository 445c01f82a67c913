"""Where in a model the results of an exported file begin to differ."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_plugin.runtime import FORMATS, ModelDescription, load

from .formats import WRITERS
from .graph import DetectionGraph
from .program import trace

# Names of modules are cut here: "backbone.bottom_up.res4" is a stage, its blocks are not.
_DEPTH = 3


class StagesGraph(nn.Module):
    """A DetectionGraph that gives out what its modules give, in the order in which they run.

    Attributes:
        detector: the graph, held, not copied.
    """

    def __init__(self, graph: DetectionGraph) -> None:
        super().__init__()
        # Not "graph", which torch.fx takes for its own.
        self.detector = graph

    @property
    def model(self) -> nn.Module:
        return self.detector.model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Values of modules and the proposals by name, then the outputs of the graph."""
        found: dict[str, Tensor] = {}
        heads: Any = self.detector._heads
        detect, handles = heads.detect, []

        def recording(features: dict, proposals: Tensor, *size: int) -> Any:
            _record(found, "proposals", proposals)
            return detect(features, proposals, *size)

        for name, module in self._stages():
            handles.append(
                module.register_forward_hook(lambda _m, _i, value, name=name: _record(found, name, value))
            )
        heads.detect = recording
        try:
            outputs = self.detector(image)
        finally:
            del heads.detect
            for handle in handles:
                handle.remove()
        same = {id(value) for value in outputs.values()}
        return {name: value for name, value in found.items() if id(value) not in same} | outputs

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        for name, module in self.model.named_modules():
            if name and name.count(".") < _DEPTH:
                yield name, module


def _record(found: dict[str, Tensor], name: str, value: Any) -> None:
    """Adds a module's tensors, once each, numbered where it has several or runs several times."""
    if isinstance(value, dict):
        value = list(value.values())
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, Tensor) and all(one is not other for other in found.values()):
            count = sum(key == name or key.startswith(f"{name}:") for key in found)
            found[f"{name}:{count + 1}" if count else name] = one


def first_stage(
    graph: DetectionGraph,
    description: ModelDescription,
    format: str,
    image: np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = 1e-3,
) -> str:
    """Exports the graph anew with all its stages as outputs, and compares them in the order of their run.

    Args:
        graph: of the model.
        description: of its file.
        format: a key of `WRITERS`.
        image: (H, W, 3) uint8 RGB on which the two differ.
        size: as `trace` takes it.
        tolerance: largest difference, relative to the largest value of a stage.

    Returns:
        Name of the first stage that differs, and how.
    """
    stages = StagesGraph(graph).eval()
    program = trace(stages, size)
    description = dataclasses.replace(description, outputs=list(program.call_spec.out_spec.context))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"stages{FORMATS[format][0]}")
        WRITERS[format](program, description, path)
        exported = load(path)
        prepared, _, _ = exported.prepare(image)
        values = exported.run(prepared)
    with torch.no_grad():
        expected = stages(torch.from_numpy(prepared))
    for name, one in expected.items():
        difference = _difference(one.numpy(), values[name], tolerance)
        if difference:
            return f"{name} ({difference})"
    return "none once all stages are given out, which keeps the runtime from fusing them"


def _difference(expected: np.ndarray, found: np.ndarray, tolerance: float) -> str:
    """How two arrays differ; "" where they agree."""
    if expected.shape != found.shape:
        return f"shape {expected.shape} in PyTorch, {found.shape} in the file"
    if not expected.size or expected.dtype == np.bool_:
        return "" if np.array_equal(expected, found) else "other pixels"
    largest = float(np.abs(expected).max())
    gap = float(np.abs(expected - found).max())
    return f"by {gap:.2g}, its largest value being {largest:.2g}" if gap > tolerance * largest else ""
