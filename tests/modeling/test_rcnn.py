"""What MaskRCNN returns, and that it trains on whatever annotations there are."""

import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from helpers.training import synthetic_inputs, train_step

from mrcnn_plugin import model_zoo
from mrcnn_plugin.modeling import MaskRCNN, MLPMaskHead, add_config

# The paper's R50 models, shortened: ResNet-18 keeps every part but the depth.
KINDS = {"mask": "Shapes/mask_rcnn_R_18_FPN.py", "keypoint": "Shapes/keypoint_rcnn_R_18_FPN.py"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def build(kind):
    torch.manual_seed(0)
    cfg = model_zoo.get_config(KINDS[kind]).model
    cfg.roi_heads.batch_size_per_image = 16
    cfg.roi_heads.box_predictor.update(test_score_thresh=0.0, test_topk_per_image=5)
    return instantiate(cfg)


@pytest.fixture(scope="module")
def detector():
    model = build("mask").eval()
    model.roi_heads.mask_head.predictor.weight.data.normal_()
    return model


def annotations(kind, **kwargs):
    keypoints = kind == "keypoint"
    classes = 1 if keypoints else 4
    return synthetic_inputs(
        [(64, 64), (64, 96)], num_classes=classes, masks=not keypoints, keypoints=keypoints
    )


def bare(image):
    """As Detectron2's mapper gives an image without instances, or with crowd regions only."""
    empty = Instances(image["instances"].image_size, gt_boxes=Boxes([]))
    empty.gt_classes = torch.zeros(0, dtype=torch.int64)
    return {**image, "instances": empty}


def without(image, *fields):
    kept = {k: v for k, v in image["instances"].get_fields().items() if k not in fields}
    return {**image, "instances": Instances(image["instances"].image_size, **kept)}


def losses_of_a_step(model, inputs):
    """The losses and what was logged, after a look at every parameter's gradient."""
    losses, gradients, logged = train_step(model, inputs)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    return losses, logged


@pytest.mark.filterwarnings("error:Mean of empty slice")
class TestTraining:
    def test_no_instances_in_one_image_or_any(self, kind):
        first, second = annotations(kind)
        losses, _ = losses_of_a_step(build(kind), [bare(first), second])
        assert losses[f"loss_{kind}"] > 0
        losses, logged = losses_of_a_step(build(kind), [bare(first), bare(second)])
        assert losses[f"loss_{kind}"] == 0
        assert losses["loss_cls"] > 0
        assert all(value == value for value in logged.values())

    def test_instances_without_masks_or_keypoints(self, kind):
        fields = ("gt_masks", "gt_keypoints")
        first, second = annotations(kind)
        losses, _ = losses_of_a_step(build(kind), [without(first, *fields), second])
        assert losses[f"loss_{kind}"] > 0
        losses, logged = losses_of_a_step(build(kind), [without(first, *fields), without(second, *fields)])
        assert losses[f"loss_{kind}"] == 0
        assert losses["loss_box_reg"] > 0
        assert all(value == value for value in logged.values())

    def test_no_visible_keypoint(self):
        inputs = annotations("keypoint")
        for image in inputs:
            image["instances"].gt_keypoints.tensor[..., 2] = 0
        losses, logged = losses_of_a_step(build("keypoint"), inputs)
        assert losses["loss_keypoint"] == 0
        assert logged["keypoint_head/num_fg_samples"] == 0

    def test_empty_polygon_and_bitmasks(self):
        inputs = annotations("mask")
        inputs[0]["instances"].gt_masks.polygons[0] = []
        masks = BitMasks.from_polygon_masks(inputs[1]["instances"].gt_masks, 64, 96)
        inputs[1]["instances"].gt_masks = masks
        losses, _ = losses_of_a_step(build("mask"), inputs)
        assert losses["loss_mask"] > 0


class TestMaskFormat:
    @torch.no_grad()
    def results(self, detector, mask_format):
        detector.mask_format = mask_format
        inputs = annotations("mask")
        # Results are asked for at another size than the network's.
        inputs[0].update(height=100, width=80)
        return [output["instances"] for output in detector(inputs)]

    def test_all_hold_the_same_masks(self, detector):
        bitmask, rle, raw = (self.results(detector, f) for f in ("bitmask", "rle", "raw"))
        assert [image.image_size for image in bitmask] == [(100, 80), (64, 96)]
        for as_bits, as_rle, as_raw in zip(bitmask, rle, raw):
            count = len(as_bits)
            assert count == len(as_rle) == len(as_raw) > 0
            assert as_bits.pred_masks.dtype == torch.bool
            assert as_bits.pred_masks.shape == (count, *as_bits.image_size)
            assert 0 < as_bits.pred_masks.float().mean() < 1
            assert not as_rle.has("pred_masks")
            decoded = [mask_util.decode(one) for one in as_rle.pred_masks_rle]
            assert torch.equal(torch.tensor(decoded).bool(), as_bits.pred_masks)
            assert not as_raw.has("pred_masks_rle")
            assert as_raw.pred_masks.shape == (count, 28, 28)
            assert ((as_raw.pred_masks >= 0) & (as_raw.pred_masks <= 1)).all()

    def test_threshold(self, detector):
        half = self.results(detector, "bitmask")[0].pred_masks
        detector.mask_threshold = 0.9
        try:
            strict = self.results(detector, "bitmask")[0].pred_masks
        finally:
            detector.mask_threshold = 0.5
        assert strict.sum() < half.sum()
        assert not (strict & ~half).any()

    @pytest.mark.parametrize("mask_format", ["bitmask", "rle", "raw"])
    def test_no_detection(self, detector, mask_format):
        predictor = detector.roi_heads.box_predictor
        predictor.test_score_thresh = 1.1
        try:
            results = self.results(detector, mask_format)
        finally:
            predictor.test_score_thresh = 0.0
        assert [len(image) for image in results] == [0, 0]
        assert results[0].has("pred_masks_rle" if mask_format == "rle" else "pred_masks")

    @torch.no_grad()
    def test_raw_instances(self, detector):
        inputs = annotations("mask")
        results = detector.inference(inputs, do_postprocess=False)
        assert [image.image_size for image in results] == [(64, 64), (64, 96)]
        assert results[0].pred_masks.shape == (len(results[0]), 1, 28, 28)
        given = [
            Instances(image.image_size, pred_boxes=image.pred_boxes, pred_classes=image.pred_classes)
            for image in results
        ]
        again = detector.inference(inputs, given, do_postprocess=False)
        torch.testing.assert_close(again[0].pred_masks, results[0].pred_masks)

    def test_unknown_format_is_named(self):
        cfg = model_zoo.get_config(KINDS["mask"]).model
        cfg.mask_format = "polygon"
        with pytest.raises(ValueError, match=r"mask_format must be one of .*'rle'.*got 'polygon'"):
            instantiate(cfg)


def yaml_config():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MaskRCNN"
    cfg.MODEL.ROI_HEADS.NAME = "MaskRCNNC4ROIHeads"
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.NAME = "FCNMaskHead"
    return cfg


def test_keys_of_add_config_reach_the_model():
    cfg = yaml_config()
    add_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.MASK_FORMAT = "rle"
    cfg.MODEL.ROI_MASK_HEAD.MASK_THRESHOLD = 0.4
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2Max"
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    model = build_model(cfg)
    assert isinstance(model, MaskRCNN)
    assert (model.mask_format, model.mask_threshold) == ("rle", 0.4)
    assert model.roi_heads.pooler.pooler_type == "ROIAlignV2Max"
    assert model.roi_heads.mask_head.predictor.out_channels == 1


def test_defaults_are_the_same_with_and_without_the_keys():
    plain, added = yaml_config(), yaml_config()
    add_config(added)
    shape = ShapeSpec(channels=256, height=14, width=14)
    built = [MLPMaskHead.from_config(cfg, shape) for cfg in (plain, added)]
    assert built[0] == built[1]
    assert (built[0]["fc_dims"], built[0]["mask_size"]) == ([1024, 1024], 28)
    # The rest of the model is not what is asked about.
    formats = []
    for cfg in (plain, added):
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        model = build_model(cfg)
        formats.append((model.mask_format, model.mask_threshold))
    assert formats == [("bitmask", 0.5)] * 2


def test_mlp_head_behind_res5_is_given_its_size():
    cfg = yaml_config()
    cfg.MODEL.RESNETS.update(WIDTH_PER_GROUP=4, RES2_OUT_CHANNELS=16)
    add_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.update(NAME="MLPMaskHead", FC_DIM=8, MASK_SIZE=6)
    model = build_model(cfg).eval()
    model.pixel_std.fill_(1000.0)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    with torch.no_grad():
        results = model(
            [{"image": torch.randint(0, 256, (3, 64, 64))}],
        )
    assert results[0]["instances"].pred_masks.shape[1:] == (64, 64)
    assert model.roi_heads.mask_head.mask_fc1.in_features == 128 * 7 * 7
