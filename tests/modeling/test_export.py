"""Poolers, heads and models under Detectron2's own scripting and tracing helpers; copies of models."""

import copy
import pickle

import pytest
import torch
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from helpers.small_yaml_models import small_config
from torch import Tensor

from mrcnn_plugin.modeling import OneHotKeypointHead, ROIPooler

KINDS = ("mask", "both")
FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
    "pred_masks": Tensor,
    "pred_keypoints": Tensor,
    "pred_keypoint_heatmaps": Tensor,
}


def images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(3, *size, generator=generator) * 255} for size in sizes]


def built(kind):
    torch.manual_seed(0)
    model = build_model(small_config(kind)).eval()
    # Boxes that no step makes empty, and masks that are not everywhere a half.
    model.roi_heads.box_predictor.bbox_pred.weight.data.zero_()
    model.roi_heads.mask_head.predictor.weight.data.normal_()
    return model


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return built(request.param)


def assert_same(expected, actual):
    assert expected.has("pred_masks")
    assert len(expected) > 0
    for name, value in expected.get_fields().items():
        one, other = (getattr(v, "tensor", v) for v in (value, getattr(actual, name)))
        if one.dtype == torch.bool:
            # A probability within rounding of the threshold may fall on either side.
            assert one.shape == other.shape
            assert (one != other).float().mean() < 1e-3
        else:
            torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_scripted_model_gives_what_the_model_gives(model):
    scripted = scripting_with_instances(copy.deepcopy(model), FIELDS)
    inputs = images((96, 128), (64, 96))
    expected = model.inference(inputs, do_postprocess=False)
    for one, other in zip(expected, scripted.inference(inputs, do_postprocess=False)):
        assert_same(one, other)
    with pytest.raises(Exception, match="a scripted model pastes no masks"):
        scripted(inputs)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_follows_the_size_of_its_input(model):
    """Masks have the size of each picture, not of the one that the trace saw."""
    adapter = TracingAdapter(model, images((96, 128)), lambda module, x: module(x)[0]["instances"])
    traced = torch.jit.trace(adapter, adapter.flattened_inputs)
    for size in ((64, 96), (128, 160)):
        inputs = images(size)
        actual = adapter.outputs_schema(traced(inputs[0]["image"]))
        assert [int(side) for side in actual.image_size] == list(size)
        assert_same(model(inputs)[0]["instances"], actual)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_run_length_codes_cannot_be_traced_and_say_so():
    model = built("mask")
    model.mask_format = "rle"
    adapter = TracingAdapter(model, images((96, 128)), lambda module, x: module(x)[0]["instances"].scores)
    with pytest.raises(RuntimeError, match=r"encode_masks cannot be traced.*is 'bitmask' or 'raw'"):
        torch.jit.trace(adapter, adapter.flattened_inputs)


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_of_models_give_what_the_model_gives(model, duplicate):
    inputs = images((64, 96))
    assert_same(model(inputs)[0]["instances"], duplicate(model)(inputs)[0]["instances"])


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2", "ROIAlignMax", "ROIPool", "ROIWarp"])
def test_a_scripted_pooler_equals_the_pooler(kind):
    torch.manual_seed(0)
    features = [torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16)]
    corner = torch.rand(6, 2) * 60
    boxes = torch.cat([corner, corner + torch.rand(6, 2) * 60 + 1], dim=1)
    lists = [Boxes(boxes[:4]), Boxes(boxes[4:])]
    pooler = ROIPooler(7, (1 / 4, 1 / 8), 2, kind, canonical_box_size=56)
    scripted = torch.jit.script(pooler)
    assert torch.equal(scripted(features, lists), pooler(features, lists))
    assert scripted([f[:0] for f in features], []).shape == (0, 3, 7, 7)
    with pytest.raises(Exception, match=r"hold 2 Boxes|batch dim 0 is 2, but box_list has length 1"):
        scripted(features, lists[:1])


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_keypoint_head_takes_any_number_of_boxes():
    from detectron2.layers import ShapeSpec

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = OneHotKeypointHead(
                ShapeSpec(channels=4, height=14, width=14), num_keypoints=3, conv_dims=[4]
            )

        def forward(self, x, *boxes):
            instances = [Instances((100, 100), pred_boxes=Boxes(one)) for one in boxes]
            return tuple(image.pred_keypoints for image in self.head(x, instances))

    def inputs(*counts):
        corner = torch.rand(sum(counts), 2) * 50
        boxes = torch.cat([corner, corner + torch.rand(sum(counts), 2) * 40 + 1], dim=1)
        return torch.randn(sum(counts), 4, 14, 14), *boxes.split(counts)

    model = Model().eval()
    traced = torch.jit.trace(model, inputs(5, 4), check_trace=False)
    for counts in ((3, 2), (0, 6)):
        example = inputs(*counts)
        for actual, expected in zip(traced(*example), model(*example)):
            torch.testing.assert_close(actual, expected)
