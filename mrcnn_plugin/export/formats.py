"""Programs written as files of each format, with their description in them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._guards
from torch.export import ExportedProgram

from mrcnn_plugin.runtime import ModelDescription
from mrcnn_plugin.runtime.description import KEY
from mrcnn_plugin.runtime.loading import extra

from .aoti import write_aoti
from .program import any_sizes

#: Whose operators the translations are written in.
OPSET = 18


def write_pt2(program: ExportedProgram, description: ModelDescription, path: Path) -> None:
    """A torch.export file, which keeps this package's ops."""
    torch.export.save(program, path, extra_files={KEY: description.to_json()})


def write_onnx(program: ExportedProgram, description: ModelDescription, path: Path) -> None:
    """An ONNX file of standard operators alone.

    Raises:
        ConfigError: the extra is not installed, or an op of the model has no equivalent.
    """
    model = _onnx_program(program, description)
    model.model.metadata_props[KEY] = description.to_json()
    model.save(str(path), external_data=False)


def write_openvino(program: ExportedProgram, description: ModelDescription, path: Path) -> None:
    """An OpenVINO model, PATH.xml and PATH.bin, by way of ONNX; float32.

    Raises:
        ConfigError: as `write_onnx`.
    """
    with extra("the format openvino"):
        import openvino  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder, "model.onnx")
        write_onnx(program, description, onnx_file)
        onnx_to_openvino(onnx_file, description, path)


def onnx_to_openvino(onnx_file: Path, description: ModelDescription, path: Path) -> None:
    """An ONNX file as `write_openvino` would have written it.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    with extra("the format openvino"):
        import openvino
    # Unlike Core.read_model, it folds norms into the convolutions before them.
    model = openvino.convert_model(onnx_file)
    model.set_rt_info(description.to_json(), KEY)
    openvino.save_model(model, path, compress_to_fp16=False)


def _onnx_program(program: ExportedProgram, description: ModelDescription) -> Any:
    with extra("ONNX"):
        from .onnx_ops import translations

    _forget_pending_symbols(program)
    with any_sizes(), warnings.catch_warnings():
        # torch's exporter warns of its own use of deprecated names.
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            output_names=description.outputs,
            verbose=False,
        )


def _forget_pending_symbols(program: ExportedProgram) -> None:
    """Lets a program be decomposed again.

    torch leaves symbols of sizes that the last decomposition made, and takes them for forgotten outputs.
    """
    values = [node.meta["val"] for node in program.graph.nodes if "val" in node.meta]
    mode = torch._guards.detect_fake_mode(values)
    if mode is not None and mode.shape_env is not None:
        mode.shape_env.pending_fresh_unbacked_symbols.clear()


#: format -> what writes it.
WRITERS: dict[str, Callable[[ExportedProgram, ModelDescription, Path], None]] = {
    "aoti": write_aoti,
    "onnx": write_onnx,
    "openvino": write_openvino,
    "pt2": write_pt2,
}
