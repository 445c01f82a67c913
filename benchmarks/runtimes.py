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
from mrcnn_plugin.export.formats import WRITERS
from mrcnn_plugin.export.quantization import quantize
from mrcnn_plugin.predict.exported import instances_of
from mrcnn_plugin.runtime import FORMATS, Detections, ModelDescription

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


def write(folder: Path, case: str, model: nn.Module, color_order: str, pictures: Sequence[dict]) -> None:
    """Writes a model in each format, and in 8 bits calibrated on `pictures`, with its weights beside them.

    The files take pictures of any size; where all `pictures` have one size, that alone, which is less work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), weights_of(folder, case))
    sizes = {(int(picture["image"].shape[1]), int(picture["image"].shape[2])) for picture in pictures}
    size = sizes.pop() if len(sizes) == 1 else None
    program = trace(DetectionGraph(copy.deepcopy(model)).eval(), size)
    outputs = list(program.call_spec.out_spec.context)
    description = ModelDescription(
        version=mrcnn_plugin.__version__,
        outputs=outputs,
        color_order=color_order,
        image_size=list(size) if size else None,
        min_size=None,
        max_size=None,
        resizes=False,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        score_threshold=0.0,
        nms_threshold=0.5,
        masks="probabilities" if "masks" in outputs else None,
        mask_threshold=0.5,
        metadata={},
        config="",
    )
    for format in _MEASURED:
        if format in WRITERS:
            print(f"  {case}: writing {format}", flush=True)
            WRITERS[format](program, description, file_of(folder, case, format))
    print(f"  {case}: writing int8", flush=True)
    source = file_of(folder, case, "openvino")
    target = file_of(folder, case, "openvino", "int8")
    quantize(source, target, description, pictures, _pixels)


def exported(folder: Path, case: str) -> Iterator[tuple[str, bool, Callable[[list[dict]], list[list[dict]]]]]:
    """Of each file of a case that there is: its name, whether it computes in float32, and its run."""
    for format in _MEASURED:
        for precision in ("fp32", "int8"):
            path = format in FORMATS and file_of(folder, case, format, precision)
            if path and path.exists():
                suffix = "" if precision == "fp32" else f" {precision}"
                yield f"{NAMES[format]}{suffix}", precision == "fp32", of_file(path)


def of_file(path: Path) -> Callable[[list[dict]], list[list[dict]]]:
    """Runs pictures, each {"image": uint8 (3, H, W)} of the network's size, one by one; results for COCO."""
    model = load(path, threads=torch.get_num_threads())

    def run(images: list[dict]) -> list[list[dict]]:
        results = []
        for image in images:
            pixels = _pixels(image)
            size = (image["height"], image["width"])
            scale = (size[1] / pixels.shape[1], size[0] / pixels.shape[0])
            found = Detections(**model.run(pixels)).scaled(*scale, *size)
            instances = instances_of(found, size, model.description.mask_threshold)
            results.append(instances_to_coco_json(instances, 0))
        return results

    return run


def _pixels(picture: dict) -> np.ndarray:
    return np.ascontiguousarray(picture["image"].permute(1, 2, 0).numpy())
