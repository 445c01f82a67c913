"""Exported files of each format, by the endings of their names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mrcnn_plugin.errors import ConfigError, first_line

from .description import KEY, parse_description
from .model import ExportedModel
from .processor import INSTRUCTIONS, instructions

# Of a package's metadata, in bytes: a config, and the names of classes.
_MOST_METADATA = 2**24


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
    """An AOTInductor package on the CPU, which is machine code; of this package only its ops are imported."""

    def __init__(self, path: str, threads: int = 0) -> None:
        import torch
        import torch._inductor

        from mrcnn_plugin.ops import library

        metadata = _package_metadata(path)
        super().__init__(parse_description(metadata.get(KEY), path))
        lacking = set(metadata.get(INSTRUCTIONS, "").split()) - instructions()
        if lacking:
            raise ConfigError(
                f"{path} was compiled for a processor with {', '.join(sorted(lacking))}, which this one "
                "lacks: export the model on a machine like this one"
            )
        if library.STATUS["cpu"] is not None:
            raise ConfigError(f"{path} calls the native ops, which are missing: {library.STATUS['cpu']}")
        self._torch = torch
        try:
            self._package = torch._inductor.aoti_load_package(path)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"{path} cannot be loaded by PyTorch {torch.__version__}: {first_line(error)}"
            ) from error

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._package(self._torch.from_numpy(image))
        return {name: value.numpy() for name, value in outputs.items()}


def _package_metadata(path: str) -> dict[str, str]:
    """What an AOTInductor package says about itself, before any of its code runs."""
    try:
        with zipfile.ZipFile(path) as package:
            for entry in package.infolist():
                if re.search(r"/data/aotinductor/model/[^/]*wrapper_metadata\.json$", entry.filename):
                    if entry.file_size > _MOST_METADATA:
                        raise ConfigError(f"{path}: {entry.filename} is larger than {_MOST_METADATA} bytes")
                    return json.loads(package.read(entry))
    except (zipfile.BadZipFile, OSError, ValueError, zlib.error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is no AOTInductor package: {first_line(error)}") from error
    raise ConfigError(f"{path} is no AOTInductor package: it has no data/aotinductor/model")


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
