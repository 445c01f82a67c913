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

from mrcnn_plugin.errors import TRACEBACK, ConfigError, first_line
from mrcnn_plugin.runtime import ModelDescription
from mrcnn_plugin.runtime.description import KEY
from mrcnn_plugin.runtime.loading import extra

from .program import any_sizes, guessed_sizes

#: Whose operators the translations are written in.
OPSET = 18


def write_pt2(program: ExportedProgram, description: ModelDescription, path: Path) -> None:
    """A torch.export file, which keeps this package's ops."""
    torch.export.save(program, path, extra_files={KEY: description.to_json()})


def write_aoti(program: ExportedProgram, description: ModelDescription, path: Path) -> None:
    """An AOTInductor package: native code for this machine's processor, which calls this package's ops.

    Raises:
        ConfigError: there is no C++ compiler, or the model cannot be compiled.
    """
    about = {KEY: description.to_json(), **_plain(description)}
    # Inductor keeps maps of unknown size in the order of the picture unless it is told otherwise.
    options = {"freezing": True, "force_layout_optimization": True, "aot_inductor.metadata": about}
    try:
        with torch.no_grad(), any_sizes(), guessed_sizes():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options
            )
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"AOTInductor cannot compile the model: {first_line(error)} [{TRACEBACK}=1 shows where]"
        ) from error


def _plain(description: ModelDescription) -> dict[str, str]:
    """What a program without a JSON parser needs, as words with spaces between them."""
    ids = description.metadata.get("thing_dataset_id_to_contiguous_id") or {}
    by_class = sorted((contiguous, dataset) for dataset, contiguous in ids.items())
    whole = description.masks != "probabilities" and description.image_size is None
    return {
        "outputs": " ".join(description.outputs),
        "color_order": description.color_order,
        # Whether the graph takes a picture as it is, and its results are in the picture's pixels.
        "takes_pictures": str(int(whole and (description.resizes or description.min_size is None))),
        "category_ids": " ".join(str(dataset) for _, dataset in by_class),
    }


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
