"""What TensorRT's documents exclude is found in graphs made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mrcnn_plugin.export.tensorrt import check_file


def lines_of(tmp_path, nodes, *, inputs=(), constants=(), opset=18) -> list[str]:
    """`check_file` of a graph of these nodes."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    outputs = [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    graph = helper.make_graph(nodes, "graph", values, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    onnx.save(model, tmp_path / "graph.onnx")
    return check_file(tmp_path / "graph.onnx")


FLOATS = ("x", TensorProto.FLOAT, [1, 9000])
node = helper.make_node


def test_nothing_against_a_plain_graph(tmp_path):
    nodes = [node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), node("Relu", ["y"], ["z"])]
    assert lines_of(tmp_path, nodes, inputs=[("x", TensorProto.UINT8, ["h", "w", 3])]) == []


@pytest.mark.parametrize(("count", "found"), [(3840, 0), (3841, 1)])
def test_topk(tmp_path, count, found):
    nodes = [node("TopK", ["x", "k"], ["best", "index"])]
    lines = lines_of(tmp_path, nodes, inputs=[FLOATS], constants=[("k", np.array([count]))])
    assert len(lines) == found
    assert all(line.startswith("TopK of 3841: at most 3840") for line in lines)


def test_operators_and_opsets(tmp_path):
    nodes = [node("Compress", ["x", "c"], ["y"]), node("Compress", ["y", "c"], ["z"])]
    constants = [("c", np.array([True]))]
    lines = lines_of(tmp_path, nodes, inputs=[FLOATS], constants=constants, opset=21)
    assert lines == ["opset 21: 9 to 20 are taken", "Compress: not taken (2 nodes)"]


def test_a_picture_is_cast_before_all_else(tmp_path):
    nodes = [node("Transpose", ["x"], ["y"], perm=[2, 0, 1])]
    lines = lines_of(tmp_path, nodes, inputs=[("x", TensorProto.UINT8, [4, 4, 3])])
    assert [line.split(":")[0] for line in lines] == ["Transpose of 8-bit numbers"]


def test_boxes_of_nms(tmp_path):
    nodes = [node("NonMaxSuppression", ["x", "s"], ["y"])]
    inputs = [("x", TensorProto.FLOAT, [1, 6000, 4]), ("s", TensorProto.FLOAT, [1, 1, 6000])]
    assert lines_of(tmp_path, nodes, inputs=inputs) == [
        "NonMaxSuppression of 6000 boxes: of an image it looks at the best 5000"
    ]


def test_a_loop_that_grows(tmp_path):
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Concat", ["one", "one"], ["more"], axis=0)],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("one", TensorProto.FLOAT, ["k"]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, ["m"]),
        ],
    )
    nodes = [node("Loop", ["n", "", "x"], ["y"], body=body)]
    lines = lines_of(
        tmp_path, nodes, inputs=[("x", TensorProto.FLOAT, ["k"])], constants=[("n", np.array(3))]
    )
    assert [line.split(":")[0] for line in lines] == ["Loop"]


def test_inputs_that_must_be_constants(tmp_path):
    nodes = [node("Unsqueeze", ["x", "axes"], ["y"])]
    inputs = [FLOATS, ("axes", TensorProto.INT64, [1])]
    assert lines_of(tmp_path, nodes, inputs=inputs) == ["Unsqueeze: input 1 must be a constant"]
    assert lines_of(tmp_path, nodes, inputs=[FLOATS], constants=[("axes", np.array([0]))]) == []
