"""MMDetection's names, class rows for fine-tuning, and the command line."""

import re

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from mrcnn_plugin import model_zoo
from mrcnn_plugin.checkpoint import read_checkpoint
from mrcnn_plugin.checkpoint.convert import coco_to_cityscapes, convert_mmdetection, select_class_rows
from mrcnn_plugin.checkpoint.convert.class_transfer import CITYSCAPES_FROM_COCO
from mrcnn_plugin.checkpoint.convert.command_line import main, tensors_of
from mrcnn_plugin.configs.common.models.mmdetection import use_mmdetection


def mmdetection_state(depth: int, groups: int = 1, width: int = 64, classes: int = 80) -> dict:
    """Names and shapes of MMDetection 2 and 3's Mask R-CNN, as its modules define them; values count up."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, out, into, size, bias=True):
        shapes[f"{name}.weight"] = (out, into, size, size)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    conv("backbone.conv1", 64, 3, 7, bias=False)
    norm("backbone.bn1", 64)
    into = 64
    for stage, blocks in enumerate({50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]):
        out, inner = 256 << stage, (groups * width << stage) if groups > 1 else 64 << stage
        for block in range(blocks):
            name = f"backbone.layer{stage + 1}.{block}"
            conv(f"{name}.conv1", inner, into, 1, bias=False)
            conv(f"{name}.conv2", inner, inner // groups, 3, bias=False)
            conv(f"{name}.conv3", out, inner, 1, bias=False)
            for i, channels in enumerate((inner, inner, out)):
                norm(f"{name}.bn{i + 1}", channels)
            if block == 0:
                conv(f"{name}.downsample.0", out, into, 1, bias=False)
                norm(f"{name}.downsample.1", out)
            into = out
        conv(f"neck.lateral_convs.{stage}.conv", 256, out, 1)
        conv(f"neck.fpn_convs.{stage}.conv", 256, 256, 3)
    conv("rpn_head.rpn_conv", 256, 256, 3)
    conv("rpn_head.rpn_cls", 3, 256, 1)
    conv("rpn_head.rpn_reg", 12, 256, 1)
    for name, out, into in (
        ("shared_fcs.0", 1024, 256 * 49),
        ("shared_fcs.1", 1024, 1024),
        ("fc_cls", classes + 1, 1024),
        ("fc_reg", 4 * classes, 1024),
    ):
        shapes[f"roi_head.bbox_head.{name}.weight"] = (out, into)
        shapes[f"roi_head.bbox_head.{name}.bias"] = (out,)
    for i in range(4):
        conv(f"roi_head.mask_head.convs.{i}.conv", 256, 256, 3)
    conv("roi_head.mask_head.upsample", 256, 256, 2)
    conv("roi_head.mask_head.conv_logits", classes, 256, 1)
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}


def model_config(depth=50, **options):
    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    dataloader = model_zoo.get_config("common/data/coco.py").dataloader
    model.backbone.bottom_up.stages.depth = depth
    use_mmdetection(model, dataloader, **options)
    for split in ("train", "test"):
        assert dataloader[split].mapper.image_format == model.input_format
    return model


@pytest.mark.parametrize(("groups", "width"), [(32, 4), (64, 4), (32, 8)])
def test_a_resnext_of_mmdetection_is_one_of_detectron2(groups, width):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.merge_from_list(["DEPTH", 101, "NUM_GROUPS", groups, "WIDTH_PER_GROUP", width])
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    resnext = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    converted = convert_mmdetection(mmdetection_state(101, groups, width))
    prefix = "backbone.bottom_up."
    got = {k.removeprefix(prefix): tuple(v.shape) for k, v in converted.items() if k.startswith(prefix)}
    assert got == {k: tuple(v.shape) for k, v in resnext.state_dict().items()}


@pytest.mark.parametrize("depth", [50, 101])
def test_every_mmdetection_parameter_finds_its_place(depth):
    source = mmdetection_state(depth)
    model = instantiate(model_config(depth))
    model.load_state_dict(convert_mmdetection(source), strict=True)
    # Every value came once; the mean of a constant tensor is that constant.
    got = sorted(round(float(value.double().mean())) for value in model.state_dict().values())
    assert got == [i for i, name in enumerate(source) if not name.endswith("num_batches_tracked")]
    assert float(model.backbone.bottom_up.res3[0].shortcut.norm.bias[0]) == float(
        source["backbone.layer2.0.downsample.1.bias"][0]
    )


def test_mmdetection_settings_follow_the_style():
    pytorch, caffe = model_config(), model_config(style="caffe")
    assert (pytorch.input_format, caffe.input_format) == ("RGB", "BGR")
    assert pytorch.pixel_mean == caffe.pixel_mean[::-1]
    assert caffe.pixel_std == [1.0, 1.0, 1.0]
    assert not pytorch.backbone.bottom_up.stages.stride_in_1x1
    assert caffe.backbone.bottom_up.stages.stride_in_1x1
    with pytest.raises(ValueError, match="style must be 'pytorch' or 'caffe'"):
        model_config(style="tensorflow")


def test_mmdetection_files_that_cannot_be_converted_say_why():
    state = mmdetection_state(50)
    with pytest.raises(ValueError, match="MMDetection 1"):
        convert_mmdetection({name.removeprefix("roi_head."): value for name, value in state.items()})
    with pytest.raises(ValueError, match=r"do not have: backbone\.layer1\.0\.conv2\.conv_offset\.weight"):
        convert_mmdetection({**state, "backbone.layer1.0.conv2.conv_offset.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="fc_reg must have 4 rows or 4 for each of 80 classes, got 324"):
        convert_mmdetection({**state, "roi_head.bbox_head.fc_reg.weight": torch.ones(324, 1024)})
    wrapped = {f"module.{name}": value for name, value in state.items()}
    assert convert_mmdetection(wrapped).keys() == convert_mmdetection(state).keys()


def predictors(classes: int) -> dict[str, torch.Tensor]:
    """Rows that tell their class: class + 0.25 * coordinate for boxes; 1000 for the background."""
    rows = torch.arange(classes, dtype=torch.float32)
    scores = torch.cat([rows, torch.tensor([1000.0])])
    boxes = (rows[:, None] + 0.25 * torch.arange(4)).flatten()
    return {
        "backbone.x": torch.ones(2),
        "roi_heads.box_predictor.cls_score.weight": torch.cat([rows, torch.tensor([1000.0])])[:, None].repeat(
            1, 3
        ),
        "roi_heads.box_predictor.cls_score.bias": scores,
        "roi_heads.box_predictor.bbox_pred.weight": boxes[:, None].repeat(1, 3),
        "roi_heads.box_predictor.bbox_pred.bias": boxes,
        "roi_heads.mask_head.predictor.weight": rows[:, None, None, None].repeat(1, 3, 1, 1),
        "roi_heads.mask_head.predictor.bias": rows,
    }


def test_cityscapes_classes_are_those_of_coco():
    from detectron2.data import MetadataCatalog

    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    cityscapes = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
    assert list(CITYSCAPES_FROM_COCO) == cityscapes
    for name, source in CITYSCAPES_FROM_COCO.items():
        assert source is None if name == "rider" else coco[source] == name


def test_coco_to_cityscapes_takes_seven_classes_and_draws_rider():
    before = predictors(80)
    state = coco_to_cityscapes(before, seed=3)
    want = [0, None, 2, 7, 5, 6, 3, 1]
    scores = state["roi_heads.box_predictor.cls_score.weight"]
    assert scores.shape == (9, 3)
    assert state["roi_heads.box_predictor.bbox_pred.weight"].shape == (32, 3)
    assert state["roi_heads.mask_head.predictor.weight"].shape == (8, 3, 1, 1)
    assert state["roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 0, 2, 7, 5, 6, 3, 1, 1000]
    for row, source in enumerate(want):
        if source is not None:
            assert scores[row].tolist() == [source] * 3
            assert state["roi_heads.mask_head.predictor.weight"][row].flatten().tolist() == [source] * 3
            boxes = state["roi_heads.box_predictor.bbox_pred.bias"][4 * row : 4 * row + 4]
            assert boxes.tolist() == [source, source + 0.25, source + 0.5, source + 0.75]
    assert 0 < float(scores[1].abs().max()) < 0.1, "rider is drawn small, as the layer's initialisation"
    assert torch.equal(scores, coco_to_cityscapes(before, seed=3)["roi_heads.box_predictor.cls_score.weight"])
    assert state["backbone.x"] is before["backbone.x"]
    person = coco_to_cityscapes(before, rider="person")["roi_heads.box_predictor.cls_score.weight"]
    assert person[1].tolist() == [0, 0, 0]


def test_class_rows_leave_class_agnostic_predictors_alone():
    state = predictors(80)
    state["roi_heads.mask_head.predictor.weight"] = torch.ones(1, 3, 1, 1)
    state["roi_heads.box_predictor.bbox_pred.weight"] = torch.ones(4, 3)
    new = select_class_rows(state, [5, 5])
    assert new["roi_heads.mask_head.predictor.weight"].shape[0] == 1
    assert new["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 4
    assert new["roi_heads.box_predictor.cls_score.bias"].tolist() == [5, 5, 1000]


def test_wrong_class_rows_are_errors():
    with pytest.raises(ValueError, match="classes 0 to 7 of the state dict, got 8"):
        select_class_rows(predictors(8), [0, 8])
    with pytest.raises(ValueError, match="COCO's 80 classes, got 8"):
        coco_to_cityscapes(predictors(8))
    with pytest.raises(ValueError, match="rider must be"):
        coco_to_cityscapes(predictors(80), rider="cyclist")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_command_line_converts(tmp_path, capsys, suffix):
    source, out = tmp_path / "mm.pth", tmp_path / f"d2{suffix}"
    state = mmdetection_state(50)
    torch.save({"state_dict": state, "meta": {"epoch": 12}}, source)
    assert main(["--from", "mmdetection", "--to", "cityscapes", str(source), str(out)]) == 0
    assert re.search(r"d2\.\w+: \d+ tensors, 4\d,\d+,\d+ numbers", capsys.readouterr().out)
    written = tensors_of(read_checkpoint(out), "out")
    assert written["roi_heads.box_predictor.cls_score.weight"].shape == (9, 1024)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, out.name])


def test_command_line_errors_are_one_line(tmp_path, capsys):
    source = tmp_path / "tv.pth"
    torch.save({"backbone.body.conv1.weight": torch.ones(1)}, source)
    for arguments, message in (
        ([str(source), str(tmp_path / "out.pth")], "holds torchvision's parameter names"),
        (["--from", "torchvision", str(tmp_path / "none.pth"), "out.pth"], "none.pth"),
        (["--from", "mmdetection", str(source), "out.pth"], "do not have: backbone.body.conv1.weight"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("convert: ")
        assert message in error
        assert error.count("\n") == 1
    good = tmp_path / "good.pth"
    torch.save(predictors(80), good)
    assert main([str(good), str(tmp_path / "out.bin")]) == 1
    assert "must end in .safetensors or .pth" in capsys.readouterr().err
