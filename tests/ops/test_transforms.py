"""The ops under PyTorch's program transforms: TorchScript, tracing, torch.fx, vmap, quantization."""

import io
import pickle

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mrcnn_plugin import ops
from mrcnn_plugin.ops import library

FEATURES = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor([[0.0, 1, 1, 5, 5], [1, 2, 2, 7, 6], [0, 0.5, 3, 4, 7]])
LISTS = [ROIS[:2, 1:], ROIS[1:, 1:]]
MASKS = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(1))
HEATMAPS = torch.randn(3, 2, 14, 14, generator=torch.Generator().manual_seed(2))
MODULES = [
    ops.ROIAlign(7, 1.0, 2),
    ops.ROIAlign((3, 5), 0.5, 0, aligned=False, mode="max"),
    ops.ROIPool(3, 1.0),
    ops.ROIPool((3, 4), 0.5),
    ops.ROIWarp(3, 1.0, 2),
    ops.ROIWarp((2, 4), 0.5, mode="avg"),
]
modules = pytest.mark.parametrize("module", MODULES, ids=str)


@modules
def test_a_scripted_module_takes_both_forms_of_boxes_and_survives_saving(module):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for boxes in (ROIS, LISTS, ROIS.half(), ROIS[:0]):
        assert torch.equal(loaded(FEATURES, boxes), module(FEATURES, boxes))


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("size", [3, (2, 4), [2, 4]])
def test_scripted_functions_equal_eager_ones(size, mode, scripted):
    call = (lambda function: torch.jit.script(function)) if scripted else (lambda function: function)
    eager_size = tuple(size) if isinstance(size, list) else size
    expected = ops.roi_align(FEATURES, ROIS, eager_size, 0.5, 2, True, mode=mode)
    assert torch.equal(call(ops.roi_align)(FEATURES, ROIS, size, 0.5, 2, True, mode=mode), expected)
    # One pixel lower in both levels: the coarser one has half the scale.
    levels = torch.tensor([0, 1, 0])
    pyramid = [FEATURES, FEATURES[:, :, ::2, ::2].contiguous()]
    several = call(ops.multi_level_roi_align)(pyramid, ROIS, [0.5, 0.25], size, 2, mode=mode, levels=levels)
    assert torch.equal(several[[0, 2]], expected[[0, 2]])
    coarse = ops.roi_align(pyramid[1], ROIS, eager_size, 0.25, 2, True, mode=mode)
    assert torch.equal(several[1], coarse[1])


def test_scripted_masks_and_keypoints_equal_eager_ones():
    boxes = ROIS[:, 1:] * 3
    for dtype in (torch.float32, torch.float64, torch.float16):
        scripted = torch.jit.script(ops.paste_masks)(MASKS.to(dtype), boxes, (30, 25), 0.4)
        assert torch.equal(scripted, ops.paste_masks(MASKS.to(dtype), boxes, (30, 25), 0.4))
        keypoints = torch.jit.script(ops.heatmaps_to_keypoints)(HEATMAPS.to(dtype), boxes)
        expected = ops.heatmaps_to_keypoints(HEATMAPS.to(dtype), boxes)
        assert keypoints.dtype == expected.dtype
        assert torch.equal(keypoints, expected)


def test_a_scripted_function_that_calls_an_op_is_compiled_too():
    def pooled(features: Tensor, boxes: Tensor) -> Tensor:
        return ops.roi_align(features, boxes, 3) + ops.roi_align(
            features, [boxes[:, 1:], boxes[:0, 1:]], [3, 3]
        )

    assert torch.equal(torch.jit.script(pooled)(FEATURES, ROIS), pooled(FEATURES, ROIS))


def test_scripted_gradients_are_those_of_the_op():
    def gradient(function):
        leaf = FEATURES.double().requires_grad_()
        (grad,) = torch.autograd.grad(function(leaf, ROIS.double(), 3).square().sum(), leaf)
        return grad

    torch.testing.assert_close(gradient(torch.jit.script(ops.roi_align)), gradient(ops.roi_align))


@pytest.mark.parametrize(
    ("function", "instead"),
    [(ops.encode_masks, "bytes.*gives tensors"), (ops.rasterize_polygons, "lists.*takes tensors")],
)
def test_what_torchscript_cannot_express_is_refused_in_one_line(function, instead):
    with pytest.raises(RuntimeError, match=f"{function.__name__} cannot be scripted: .*{instead}") as caught:
        torch.jit.script(function)
    assert "\n" not in str(caught.value)


def test_scripting_without_native_ops_says_so(monkeypatch):
    monkeypatch.setitem(library.STATUS, "cpu", "_C.so was not built")
    with pytest.raises(RuntimeError, match=r"roi_align cannot be scripted: .*_C\.so was not built"):
        torch.jit.script(ops.roi_align)


def test_scripted_errors_are_those_of_the_eager_call():
    with pytest.raises(Exception, match="list of 2 tensors"):
        torch.jit.script(ops.roi_align)(FEATURES, LISTS[:1], 3)
    with pytest.raises(Exception, match="mode must be one of"):
        torch.jit.script(ops.roi_align)(FEATURES, ROIS, 3, mode="sum")
    with pytest.raises(Exception, match=r"batch index, must be in \[0, 2\)"):
        torch.jit.script(ops.roi_align)(FEATURES, ROIS + 2, 3)


class _All(nn.Module):
    def forward(self, features, rois, masks, heatmaps):
        boxes = rois[:, 1:] * 3
        return (
            ops.roi_align(features, rois, 3),
            ops.multi_level_roi_align([features, features[:, :, ::2, ::2]], rois, [1.0, 0.5], 3, 2),
            ops.paste_masks(masks, boxes, (30, 25)),
            ops.heatmaps_to_keypoints(heatmaps, boxes),
        )


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_takes_any_number_of_boxes_masks_and_heatmaps():
    traced = torch.jit.trace(_All(), (FEATURES, ROIS, MASKS, HEATMAPS))
    for count in (1, 0, 5):
        inputs = [tensor.repeat(2, *[1] * (tensor.dim() - 1))[:count] for tensor in (ROIS, MASKS, HEATMAPS)]
        for actual, expected in zip(traced(FEATURES, *inputs), _All()(FEATURES, *inputs)):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_takes_any_number_of_boxes_masks_and_heatmaps(strict):
    count = torch.export.Dim("count", min=2, max=1000)
    dynamic = (None, {0: count}, {0: count}, {0: count})
    program = torch.export.export(
        _All(), (FEATURES, ROIS, MASKS, HEATMAPS), dynamic_shapes=dynamic, strict=strict
    )
    inputs = [tensor.repeat(2, *[1] * (tensor.dim() - 1)) for tensor in (ROIS, MASKS, HEATMAPS)]
    for actual, expected in zip(program.module()(FEATURES, *inputs), _All()(FEATURES, *inputs)):
        assert torch.equal(actual, expected)


@modules
def test_a_symbolic_trace_keeps_an_op_as_one_node_and_can_be_pickled(module):
    graph = torch.fx.symbolic_trace(module)
    assert [node.op for node in graph.graph.nodes] == ["placeholder"] * 2 + ["call_function", "output"]
    restored = pickle.loads(pickle.dumps(graph))
    for boxes in (ROIS, LISTS):
        assert torch.equal(graph(FEATURES, boxes), module(FEATURES, boxes))
        assert torch.equal(restored(FEATURES, boxes), module(FEATURES, boxes))


def test_a_symbolic_trace_of_functions_equals_them():
    graph = torch.fx.symbolic_trace(_All())
    inputs = (FEATURES, ROIS, MASKS, HEATMAPS)
    for actual, expected in zip(graph(*inputs), _All()(*inputs)):
        assert torch.equal(actual, expected)
    lists = torch.fx.symbolic_trace(lambda x, a, b: ops.roi_align(x, [a, b], 3))
    assert torch.equal(lists(FEATURES, *LISTS), ops.roi_align(FEATURES, LISTS, 3))


BATCH = torch.rand(4, *FEATURES.shape, generator=torch.Generator().manual_seed(3))
BATCH_ROIS = torch.stack([ROIS + torch.tensor([0, 1, 1, 1, 1]) * 0.3 * i for i in range(4)])


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 2)])
def test_vmap_of_roi_align_equals_a_loop(dims):
    def pool(features, rois):
        return ops.roi_align(features, rois, 3, 1.0, 2)

    inputs = [
        one if dim is None else batch.movedim(0, dim)
        for one, batch, dim in zip((FEATURES, ROIS), (BATCH, BATCH_ROIS), dims)
    ]
    looped = [
        pool(
            *(
                one if dim is None else batch[i]
                for one, batch, dim in zip((FEATURES, ROIS), (BATCH, BATCH_ROIS), dims)
            )
        )
        for i in range(4)
    ]
    torch.testing.assert_close(torch.vmap(pool, dims)(*inputs), torch.stack(looped), atol=0, rtol=0)


def test_vmap_maps_levels_and_passes_gradients():
    levels = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]])

    def pool(features, rois, level):
        pyramid = [features, features[:, :, ::2, ::2]]
        return ops.multi_level_roi_align(pyramid, rois, [1.0, 0.5], 3, 2, levels=level)

    leaves = [BATCH.clone().requires_grad_() for _ in range(2)]
    mapped = torch.vmap(pool)(leaves[0], BATCH_ROIS, levels)
    looped = torch.stack([pool(*example) for example in zip(leaves[1], BATCH_ROIS, levels)])
    torch.testing.assert_close(mapped, looped)
    for output in (mapped, looped):
        output.square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_vmap_finds_a_batch_index_that_only_another_example_has():
    wrong = BATCH_ROIS.clone()
    wrong[1, 0, 0] = 2
    with pytest.raises(RuntimeError, match="batch index"):
        torch.vmap(lambda features, rois: ops.roi_align(features, rois, 3))(BATCH, wrong)


def test_vmap_of_masks_and_keypoints_equals_a_loop():
    boxes = BATCH_ROIS[..., 1:] * 3
    masks, maps = MASKS.expand(4, -1, -1, -1), HEATMAPS * torch.arange(1.0, 5).view(-1, 1, 1, 1, 1)
    pasted = torch.vmap(lambda m, b: ops.paste_masks(m, b, (30, 25)))(masks, boxes)
    keypoints = torch.vmap(ops.heatmaps_to_keypoints)(maps, boxes)
    for i in range(4):
        assert torch.equal(pasted[i], ops.paste_masks(masks[i], boxes[i], (30, 25)))
        assert torch.equal(keypoints[i], ops.heatmaps_to_keypoints(maps[i], boxes[i]))


def test_vmap_of_results_of_unknown_size_is_refused():
    boxes = BATCH_ROIS[..., 1:]
    with pytest.raises(RuntimeError, match=r"encode_masks cannot be mapped by torch\.vmap"):
        torch.vmap(lambda b: ops.encode_masks(MASKS, b, (30, 25)))(boxes)
    with pytest.raises(RuntimeError, match=r"rasterize_polygons cannot be mapped by torch\.vmap"):
        torch.vmap(lambda b: ops.rasterize_polygons([[[1.0, 1, 5, 1, 5, 5]]] * 3, b, 14))(boxes)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8, torch.qint32])
@pytest.mark.parametrize("aligned", [False, True])
def test_quantized_features_give_what_torchvision_gives(dtype, aligned):
    """Computed on the numbers that the quantized tensors hold; then quantized, so at most one step apart."""
    features = torch.quantize_per_tensor(FEATURES[:1] * 100, 0.5, 10, dtype)
    rois = torch.quantize_per_tensor(ROIS * torch.tensor([0, 1, 1, 1, 1]), 0.5, 10, dtype)
    actual = ops.roi_align(features, rois, 3, 1.0, 2, aligned)
    expected = torchvision.ops.roi_align(features, rois, 3, 1.0, 2, aligned)
    assert (actual.dtype, actual.q_scale(), actual.q_zero_point()) == (dtype, 0.5, 10)
    step = (actual.int_repr().int() - expected.int_repr().int()).abs()
    assert step.max() <= 1
    assert (step > 0).float().mean() < 0.05
    assert torch.equal(
        ops.roi_align(features, rois.dequantize(), 3, 1.0, 2, aligned).int_repr(), actual.int_repr()
    )


def test_quantized_input_beyond_torchvisions_is_refused_with_the_alternative():
    two = torch.quantize_per_tensor(FEATURES, 0.1, 0, torch.quint8)
    with pytest.raises(RuntimeError, match=r"Only one image per batch.*got 2.*input\.dequantize\(\)"):
        ops.roi_align(two, ROIS, 3)
    with pytest.raises(ValueError, match=r"features must have one of the dtypes.*quint8.*dequantize"):
        ops.multi_level_roi_align([two], ROIS, [1.0], 3, 2)
