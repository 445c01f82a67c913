"""Exported files of each format, by the endings of their names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mrcnn_plugin.errors import ConfigError, first_line

from .description import KEY, parse_description
from .model import ExportedModel


@contextlib.contextmanager
def extra(purpose: str) -> Iterator[None]:
    """Around imports of what the extra `export` installs.

    Raises:
        ConfigError: something is not installed; the message says how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs what cannot be imported ({error}): pip install 'mrcnn_plugin[export]'"
        ) from error


class OnnxModel(ExportedModel):
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, path: str, threads: int = 0) -> None:
        with extra("an ONNX file"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Warnings about constants that it folds are not the user's business.
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        super().__init__(parse_description(self._session.get_modelmeta().custom_metadata_map.get(KEY), path))

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        names = self.description.outputs
        return dict(zip(names, self._session.run(names, {"image": image})))


class OpenVINOModel(ExportedModel):
    """An OpenVINO model (.xml, with its .bin beside it) on the CPU."""

    def __init__(self, path: str, threads: int = 0) -> None:
        with extra("an OpenVINO file"):
            import openvino
        core = openvino.Core()
        model = core.read_model(path)
        text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
        super().__init__(parse_description(text, path))
        # What is not 8 bits is computed in float32, as in the other formats: bfloat16, which OpenVINO chooses
        # where there is AMX, moves boxes by pixels.
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        self._compiled = core.compile_model(model, "CPU", options)

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        results = self._compiled(image)
        return {name: results[name] for name in self.description.outputs}


class Pt2Model(ExportedModel):
    """A torch.export program on the CPU; of this package only its ops are imported."""

    def __init__(self, path: str, threads: int = 0) -> None:
        import torch

        import mrcnn_plugin.ops  # noqa: F401

        self._torch = torch
        extra = {KEY: ""}
        program = torch.export.load(path, extra_files=extra)
        super().__init__(parse_description(extra[KEY], path))
        # The guards are about the memory of the picture that was traced; any other size runs as well.
        self._module = program.module(check_guards=False)

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        with self._torch.no_grad():
            outputs = self._module(self._torch.from_numpy(image))
        return {name: value.numpy() for name, value in outputs.items()}


class AotiModel(ExportedModel):
    """An AOTInductor package on the CPU; of this package only its ops are imported."""

    def __init__(self, path: str, threads: int = 0) -> None:
        import torch
        import torch._inductor

        import mrcnn_plugin.ops  # noqa: F401

        self._torch = torch
        try:
            self._package = torch._inductor.aoti_load_package(path)
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"{path} is no AOTInductor package: {first_line(error)}") from error
        super().__init__(parse_description(self._package.get_metadata().get(KEY), path))

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._package(self._torch.from_numpy(image))
        return {name: value.numpy() for name, value in outputs.items()}


#: format -> ending of its files' names, and what loads them.
FORMATS: dict[str, tuple[str, Callable[..., ExportedModel]]] = {
    # First, as it ends in .pt2, too.
    "aoti": (".aoti.pt2", AotiModel),
    "onnx": (".onnx", OnnxModel),
    "openvino": (".xml", OpenVINOModel),
    "pt2": (".pt2", Pt2Model),
}


def load(path: str | Path, *, threads: int = 0) -> ExportedModel:
    """A file that export.py wrote, as one callable whatever its format.

    Args:
        path: its ending tells the format.
        threads: of ONNX Runtime or OpenVINO; 0: their own choice. PyTorch has its own setting.

    Returns:
        Pictures, (H, W, 3) uint8 RGB, to `Detections`.

    Raises:
        ConfigError: no such file, not one of export.py's, or the format's runtime is missing.
    """
    path = str(path)
    if not os.path.isfile(path):
        raise ConfigError(f"no exported model at {path!r}")
    for suffix, cls in FORMATS.values():
        if path.endswith(suffix):
            return cls(path, threads=threads)
    endings = ", ".join(suffix for suffix, _ in FORMATS.values())
    raise ConfigError(f"{path}: the name of an exported model ends in one of {endings}")
