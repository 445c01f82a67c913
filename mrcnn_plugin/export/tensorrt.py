"""What of an ONNX file TensorRT's documents say that it does not take. TensorRT itself is not needed, or run.

Sources: the operator support matrix of TensorRT's ONNX parser, docs/operators.md of onnx-tensorrt (TensorRT
10.1), and the pages on TopK and NMS of TensorRT's Operators Documentation (10.7).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrcnn_plugin.runtime.loading import extra

#: Opsets that the parser takes.
OPSETS = range(9, 21)
#: Largest K of TopK, which the page on TopK allows and the matrix just excludes.
TOPK = 3840
#: Boxes of one image of which NMS looks at the best, on current devices.
NMS_BOXES = 5000

# Operators of ONNX's default domain whose row in the matrix says N.
_NAMES = """
AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow
CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear
HammingWindow HannWindow ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix
Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv
QLinearMatMul RegexFullMatch STFT SequenceAt SequenceConstruct SequenceEmpty SequenceErase
SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat
StringNormalizer StringSplit TfIdfVectorizer Unique
"""
_REFUSED = frozenset(_NAMES.split())
# Inputs that must be constants, by their place.
_CONSTANTS = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1, "Pad": 3, "ReduceSum": 1, "ReduceMax": 1}
_CONSTANTS |= {"ReduceMean": 1, "ReduceMin": 1, "CumSum": 1, "OneHot": 1}
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


def check_file(path: str | Path) -> list[str]:
    """What TensorRT would not take of an ONNX file.

    Returns:
        A line each: the operator, how many of its nodes, and why; none where nothing is known against it.

    Raises:
        ConfigError: the extra `export` is not installed.
    """
    with extra("TensorRT's check"):
        import onnx
        import onnx.inliner
    model = onnx.inliner.inline_local_functions(onnx.load(path, load_external_data=False))
    found: dict[str, int] = {}
    for problem in _problems(model, onnx):
        found[problem] = found.get(problem, 0) + 1
    return [problem if count == 1 else f"{problem} ({count} nodes)" for problem, count in found.items()]


def _problems(model: Any, onnx: Any) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            yield f"opset {opset.version}: {OPSETS[0]} to {OPSETS[-1]} are taken"
    graph = model.graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            value = next(iter(values.values()))
            is_tensor = isinstance(value, onnx.TensorProto)
            constants[node.output[0]] = onnx.numpy_helper.to_array(value) if is_tensor else value
    shapes = _shapes(model, onnx)
    inputs = {one.name for one in graph.input if one.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        yield from _node_problems(node, attributes, constants, shapes, inputs)


def _shapes(model: Any, onnx: Any) -> dict[str, list[int | None]]:
    """Sides of each value; None where they vary."""
    values = onnx.shape_inference.infer_shapes(model).graph
    return {
        one.name: [side.dim_value or None for side in one.type.tensor_type.shape.dim]
        for one in [*values.value_info, *values.input, *values.output]
    }


def _node_problems(
    node: Any, attributes: dict[str, Any], constants: dict[str, Any], shapes: dict, bytes_inputs: set[str]
) -> Iterator[str]:
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        yield f"{node.domain}::{kind}: no operator of ONNX"
    elif kind in _REFUSED:
        yield f"{kind}: not taken"
    if kind != "Cast" and any(name in bytes_inputs for name in node.input) and kind != "Shape":
        yield f"{kind} of 8-bit numbers: they are taken as an input of the network that is cast, and not else"
    place = _CONSTANTS.get(kind, len(node.input))
    if place < len(node.input) and node.input[place] and node.input[place] not in constants:
        yield f"{kind}: input {place} must be a constant"
    if kind == "TopK":
        yield from _topk(node, attributes, constants)
    elif kind == "NonMaxSuppression":
        sides = shapes.get(node.input[0], [])
        boxes = sides[1] if len(sides) == 3 else None
        if boxes is not None and boxes > NMS_BOXES:
            yield f"NonMaxSuppression of {boxes} boxes: of an image it looks at the best {NMS_BOXES}"
    elif kind == "Loop":
        yield from _loop(attributes)
    elif kind == "Resize":
        mode = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
        if mode not in _RESIZE_MODES or attributes.get("antialias", 0):
            yield f"Resize: mode {mode}, antialiasing {attributes.get('antialias', 0)}"
        if attributes.get("mode", b"nearest") == b"cubic":
            yield "Resize: mode cubic"
    elif kind in ("ScatterND", "ScatterElements") and attributes.get("reduction", b"none") != b"none":
        yield f"{kind}: with reduction"
    elif kind in ("MaxPool", "LayerNormalization") and len([name for name in node.output if name]) > 1:
        yield f"{kind}: its further outputs"


def _topk(node: Any, attributes: dict[str, Any], constants: dict[str, Any]) -> Iterator[str]:
    if not attributes.get("sorted", 1):
        yield "TopK: unsorted"
    count = constants.get(node.input[1])
    if count is None:
        yield "TopK: its number is computed, so that the limit is known at run time alone"
    elif int(count[0]) > TOPK:
        yield f"TopK of {int(count[0])}: at most {TOPK}; model.proposal_generator.pre_nms_topk sets it"


def _loop(attributes: dict[str, Any]) -> Iterator[str]:
    """A loop may neither change the shape of what it carries nor collect a varying number of results."""
    body = attributes["body"]
    # Condition first: what is carried follows it in the same order on both sides.
    carried = zip(body.input[2:], body.output[1:])
    sides = [[list(one.type.tensor_type.shape.dim) for one in pair] for pair in carried]
    if any(before != after or not before for before, after in sides):
        yield "Loop: the shape of what it carries grows from turn to turn (keypoints are decoded so)"
