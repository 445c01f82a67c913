"""Quantization after training, by NNCF: an OpenVINO model with 8-bit weights and maps.

What is quantized is the network: convolutions and products with constant weights, and the additions of
residual connections. Boxes, scores and all that chooses between them are computed in floating point.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_plugin.errors import ConfigError, first_line
from mrcnn_plugin.runtime import ModelDescription
from mrcnn_plugin.runtime.description import KEY
from mrcnn_plugin.runtime.loading import extra

# Their first input is a map, their second a weight.
_LAYERS = {
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
}
# Arithmetic that NNCF would quantize wherever it stands. Layers and additions are named one by one.
_FLOATING_TYPES = [
    "Subtract",
    "Multiply",
    "Divide",
    "Maximum",
    "Minimum",
    "Less",
    "LessEqual",
    "Greater",
    "GreaterEqual",
    "Equal",
    "FloorMod",
    "Power",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "MVN",
]


def quantize(
    source: Path,
    target: Path,
    description: ModelDescription,
    pictures: Sequence[Any],
    read: Callable[[Any], np.ndarray],
    *,
    floating: Sequence[str] = (),
) -> None:
    """Writes an 8-bit model.

    Weights are rounded symmetrically, for each output channel; maps between limits that the pictures show;
    biases are corrected for the mean error of that.

    Args:
        source: an OpenVINO file of export.py, in float32.
        target: the file to write.
        description: of the target.
        pictures: to calibrate with.
        read: of one of them, what the graph takes: uint8 (H, W, 3).
        floating: layers stay in floating point whose operator, such as GroupConvolution (depthwise ones), is
            among these, or whose weight has one of them in its name. Weights into which a norm was folded are
            called Multiply_ and a number.

    Raises:
        ConfigError: NNCF is not installed, or nothing was found in the pictures.
    """
    with extra("--precision int8"):
        import nncf
        import openvino
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    scope = nncf.IgnoredScope(names=_floating_names(model, floating), types=_FLOATING_TYPES, validate=False)
    try:
        quantized = nncf.quantize(
            model,
            nncf.Dataset(pictures, read),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=scope,
        )
    except nncf.InternalError as error:
        if "Statistics were not collected" not in str(error):
            raise
        raise ConfigError(
            "--calibration: some layers saw nothing, as nothing was found in the pictures; give others, or a "
            f"lower --score-threshold ({first_line(error)})"
        ) from error
    quantized.set_rt_info(dataclasses.replace(description, precision="int8").to_json(), KEY)
    openvino.save_model(quantized, target, compress_to_fp16=False)


def _floating_names(model: Any, floating: Sequence[str]) -> list[str]:
    """Names of the layers and additions that are not to be quantized."""
    names = []
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind in _LAYERS:
            weight = _weight_name(op)
            quantized = weight is not None and kind not in floating
            quantized = quantized and not any(part in str(weight) for part in floating)
        elif kind == "Add":
            quantized = _is_residual(op)
        else:
            continue
        if not quantized:
            names.append(op.get_friendly_name())
    return names


def _weight_name(op: Any) -> str | None:
    """The name of a layer's constant weight; None where it is computed."""
    node = op.input_value(1).get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return node.get_friendly_name() if node.get_type_name() == "Constant" else None


def _is_residual(op: Any) -> bool:
    """Whether two maps (1, C, H, W) are added."""
    parents = [value.get_node().get_type_name() for value in op.input_values()]
    rank = op.get_output_partial_shape(0).rank
    return rank.is_static and rank.get_length() == 4 and "Constant" not in parents
