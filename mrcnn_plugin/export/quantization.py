"""Quantization after training, by NNCF: an OpenVINO model with 8-bit weights and maps.

What is quantized is the network: convolutions and products with constant weights, and the additions of
residual connections. Boxes, scores and all that chooses between them are computed in floating point.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Layer:
    """What can be quantized.

    Attributes:
        name: of the operator.
        kind: of the operator, such as Convolution, or GroupConvolution of depthwise ones.
        weight: its name; "Multiply_" and a number where a norm was folded into it.
    """

    name: str
    kind: str
    weight: str


def layers_of(source: Path) -> list[Layer]:
    """The layers of an OpenVINO file, in the order of its graph."""
    with extra("--precision int8"):
        import openvino
    return _layers(openvino.Core().read_model(source))


def quantize(
    source: Path,
    target: Path,
    description: ModelDescription,
    pictures: Sequence[Any],
    read: Callable[[Any], np.ndarray],
    *,
    only: Collection[str] | None = None,
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
        only: names of the layers that are quantized; None: all.

    Raises:
        ConfigError: NNCF is not installed, or nothing was found in the pictures.
    """
    with extra("--precision int8"):
        import nncf
        import openvino
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    scope = nncf.IgnoredScope(names=_floating_names(model, only), types=_FLOATING_TYPES, validate=False)
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


def _layers(model: Any) -> list[Layer]:
    layers = []
    for op in model.get_ordered_ops():
        weight = _weight_name(op) if op.get_type_name() in _LAYERS else None
        if weight is not None:
            layers.append(Layer(op.get_friendly_name(), op.get_type_name(), weight))
    return layers


def _floating_names(model: Any, only: Collection[str] | None) -> list[str]:
    """Names of the layers and additions that are not to be quantized."""
    quantized = {layer.name for layer in _layers(model) if only is None or layer.name in only}
    names = []
    for op in model.get_ordered_ops():
        name, kind = op.get_friendly_name(), op.get_type_name()
        layer = kind in _LAYERS and name not in quantized
        addition = kind == "Add" and not (_is_residual(op) and _follows(op, quantized))
        if layer or addition:
            names.append(name)
    return names


def _follows(op: Any, quantized: set[str]) -> bool:
    """Whether one of the maps that are added comes from a quantized layer: else 8 bits would only cost."""
    return any(_last_layer(value.get_node()) in quantized for value in op.input_values())


def _last_layer(node: Any) -> str | None:
    """Name of the layer that a map comes from, by way of biases, norms and activations."""
    for _ in range(4):
        if node.get_type_name() in _LAYERS:
            return node.get_friendly_name()
        if not node.get_input_size():
            return None
        node = node.input_value(0).get_node()
    return None


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
