"""Programs compiled by AOTInductor: machine code that runs without Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from mrcnn_plugin.errors import TRACEBACK, ConfigError, first_line
from mrcnn_plugin.runtime import ModelDescription
from mrcnn_plugin.runtime.description import KEY
from mrcnn_plugin.runtime.processor import INSTRUCTIONS, instructions

# What inductor takes for the number of proposals and of detections where it lays out weights and loops.
_GUESS = 256


def check_aoti(image_size: tuple[int, int] | list[int] | None) -> None:
    """Refuses what cannot be compiled, before a model is traced.

    Args:
        image_size: height and width of the pictures that the program takes; None: any.

    Raises:
        ConfigError: pictures of any size, or there is no C++ compiler.
    """
    if image_size is None:
        raise ConfigError(
            "--format aoti needs --image-size HxW: AOTInductor orders the memory of maps by their sizes"
        )
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ConfigError(
            f"--format aoti needs a C++ compiler, such as g++, or the one that CXX names: {first_line(error)}"
        ) from error


def write_aoti(program: ExportedProgram, description: ModelDescription, path: Path) -> None:
    """An AOTInductor package: code for this machine's processor, which calls this package's ops in `_C.so`.

    Raises:
        ConfigError: as `check_aoti`, or the program cannot be compiled.
    """
    check_aoti(description.image_size)
    from torch._inductor.utils import fresh_cache

    options = {
        # Weights are packed for oneDNN, and convolutions take the activations and sums after them.
        "freezing": True,
        # Programs have their maps in the order that their convolutions take already.
        "layout_optimization": False,
        "aot_inductor.metadata": {KEY: description.to_json(), **_plain(description)},
    }
    failure: Exception | None = None
    # The cache would keep all weights once more for each package, and is kept where an error leaves it.
    with torch.no_grad(), fresh_cache(), _guessed_sizes():
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options
            )
        except Exception as error:
            # Inductor's own errors, the compiler's and the linker's: most are RuntimeErrors, but not all.
            failure = error
    if failure is not None:
        raise ConfigError(
            f"AOTInductor cannot compile the model: {first_line(failure)} [{TRACEBACK}=1 shows where]"
        ) from failure


def _plain(description: ModelDescription) -> dict[str, str]:
    """What a program without a JSON parser needs, as words with spaces between them."""
    ids = description.metadata.get("thing_dataset_id_to_contiguous_id") or {}
    by_class = sorted((contiguous, dataset) for dataset, contiguous in ids.items())
    words: dict[str, Any] = {
        "outputs": description.outputs,
        "color_order": [description.color_order],
        "image_size": description.image_size,
        "pixel_mean": description.pixel_mean,
        "score_threshold": [description.score_threshold],
        "mask_threshold": [description.mask_threshold],
        "category_ids": [dataset for _, dataset in by_class],
        INSTRUCTIONS: sorted(instructions()),
    }
    return {name: " ".join(map(str, values)) for name, values in words.items()}


@contextlib.contextmanager
def _guessed_sizes() -> Iterator[None]:
    """Lets inductor guess the numbers of proposals and detections where it only optimizes for them.

    `ShapeEnv.size_hint` is for such questions, and adds no guard; for a number that is known only at run time
    it raises.
    """
    shapes: Any = ShapeEnv
    before = shapes.size_hint

    def size_hint(self: ShapeEnv, expr: Any, *, allow_none: bool = False) -> Any:
        hint = before(self, expr, allow_none=True)
        if hint is None and not allow_none:
            return expr.subs(dict.fromkeys(expr.free_symbols, _GUESS))
        return hint

    shapes.size_hint = size_hint
    try:
        yield
    finally:
        shapes.size_hint = before
