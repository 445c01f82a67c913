"""A model's exported files as contestants of end_to_end.py and trained_model.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mrcnn_plugin
from mrcnn_plugin.evaluation import instances_to_coco_json
from mrcnn_plugin.export import DetectionGraph, load, trace
from mrcnn_plugin.export.formats import WRITERS, onnx_to_openvino
from mrcnn_plugin.export.quantization import quantize
from mrcnn_plugin.optimization import optimize
from mrcnn_plugin.predict.exported import instances_of
from mrcnn_plugin.runtime import FORMATS, Detections, ExportedModel, ModelDescription

#: format -> how tables call its runtime.
NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "pt2": "torch.export", "aoti": "AOTInductor"}
# torch.export's programs run op by op, as the model itself does.
_MEASURED = ("onnx", "openvino", "aoti")


def file_of(folder: Path, case: str, format: str, precision: str = "fp32") -> Path:
    """Where a case's file is, or would be."""
    name = "".join(c if c.isalnum() else "_" for c in case)
    return folder / f"{name}_{precision}{FORMATS[format][0]}"


def weights_of(folder: Path, case: str) -> Path:
    """Where the weights are that a case's files hold."""
    return file_of(folder, case, "onnx").with_suffix(".pth")


def describe(
    model: nn.Module,
    outputs: list[str],
    color_order: str,
    *,
    score_threshold: float,
    image_size: tuple[int, int] | None = None,
) -> ModelDescription:
    """Of a model without a run folder: no class names, and pictures of the network's size."""
    return ModelDescription(
        version=mrcnn_plugin.__version__,
        outputs=outputs,
        color_order=color_order,
        image_size=list(image_size) if image_size else None,
        min_size=None,
        max_size=None,
        resizes=False,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        score_threshold=score_threshold,
        nms_threshold=0.5,
        masks="probabilities" if "masks" in outputs else None,
        mask_threshold=0.5,
        metadata={},
        config="",
    )


def write(folder: Path, case: str, model: nn.Module, color_order: str, pictures: Sequence[dict]) -> None:
    """Writes a model in each format, and in 8 bits calibrated on `pictures`, with its weights beside them.

    The files take pictures of any size; where all `pictures` have one size, that alone, which is less work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), weights_of(folder, case))
    sizes = {(int(picture["image"].shape[1]), int(picture["image"].shape[2])) for picture in pictures}
    size = sizes.pop() if len(sizes) == 1 else None
    program = trace(DetectionGraph(copy.deepcopy(model)).eval(), size)
    # As export.py does it: of the copy that predict.py runs, and for one size.
    optimized = trace(DetectionGraph(optimize(model)).eval(), size) if size else None
    outputs = list(program.call_spec.out_spec.context)
    description = describe(model, outputs, color_order, score_threshold=0.0, image_size=size)
    for format in _MEASURED:
        if format in WRITERS and format != "openvino" and (format != "aoti" or size):
            print(f"  {case}: writing {format}", flush=True)
            chosen = optimized if format == "aoti" else program
            WRITERS[format](chosen, description, file_of(folder, case, format))
    print(f"  {case}: writing openvino, and int8", flush=True)
    source = file_of(folder, case, "openvino")
    onnx_to_openvino(file_of(folder, case, "onnx"), description, source)
    target = file_of(folder, case, "openvino", "int8")
    quantize(source, target, description, pictures, _pixels)


def exported(
    folder: Path, case: str, pictures: Sequence[dict], only: str | None = None
) -> Iterator[tuple[str, bool, Callable[[list[dict]], list[list[dict]]]]]:
    """Of each file of a case that there is: its name, whether it computes in float32, and its run.

    Args:
        folder, case: what `write` was given.
        pictures: that it will see.
        only: load the file of this name alone.

    Raises:
        SystemExit: there is none, or one of a fixed size that is not that of all `pictures`.
    """
    if not weights_of(folder, case).is_file():
        raise SystemExit(f"--exported {folder}: no files of {case}; write them with --export {folder}")
    shapes = {tuple(picture["image"].shape[1:]) for picture in pictures}
    for format in _MEASURED:
        for precision in ("fp32", "int8"):
            path = format in FORMATS and file_of(folder, case, format, precision)
            name = f"{NAMES[format]}{'' if precision == 'fp32' else f' {precision}'}"
            if path and path.exists() and only in (None, name):
                model = load(path, threads=torch.get_num_threads())
                size = model.description.image_size
                if size and shapes != {tuple(size)}:
                    raise SystemExit(f"{path} takes pictures of {size[0]} x {size[1]} alone, not {shapes}")
                yield name, precision == "fp32", run_of(model)


def run_of(model: ExportedModel) -> Callable[[list[dict]], list[list[dict]]]:
    """Runs pictures, each {"image": uint8 (3, H, W)} of the network's size, one by one; results for COCO.

    A file of a fixed size gets them padded at the right and at the bottom.
    """

    def run(images: list[dict]) -> list[list[dict]]:
        results = []
        for image in images:
            pixels = _pixels(image)
            size = (image["height"], image["width"])
            scale = (size[1] / pixels.shape[1], size[0] / pixels.shape[0])
            found = Detections(**model.run(_padded(pixels, model.description))).scaled(*scale, *size)
            instances = instances_of(found, size, model.description.mask_threshold)
            results.append(instances_to_coco_json(instances, 0))
        return results

    return run


def _padded(pixels: np.ndarray, description: ModelDescription) -> np.ndarray:
    if description.image_size is None or list(pixels.shape[:2]) == description.image_size:
        return pixels
    rows, columns = (size - side for size, side in zip(description.image_size, pixels.shape))
    if min(rows, columns) < 0:
        raise SystemExit(f"a picture of {pixels.shape[:2]} is larger than a file's {description.image_size}")
    padded = np.empty((*description.image_size, 3), dtype=np.uint8)
    padded[:] = np.round(description.pixel_mean)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def _pixels(picture: dict) -> np.ndarray:
    return np.ascontiguousarray(picture["image"].permute(1, 2, 0).numpy())
