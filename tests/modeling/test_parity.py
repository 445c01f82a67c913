"""The same weights and inputs through Detectron2's models and ours: parameters, settings, losses, results."""

import functools
import re

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from helpers.training import synthetic_inputs, train_step

import mrcnn_plugin
from mrcnn_plugin import model_zoo

# Detectron2's names -> ours: all that a YAML user changes.
OURS = {
    "GeneralizedRCNN": "MaskRCNN",
    "StandardROIHeads": "MaskRCNNROIHeads",
    "Res5ROIHeads": "MaskRCNNC4ROIHeads",
    "MaskRCNNConvUpsampleHead": "FCNMaskHead",
    "KRCNNConvDeconvUpsampleHead": "OneHotKeypointHead",
}
# Settings of Detectron2's zoo files, which an installation does not always hold.
C4 = {"MASK_ON": True, "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead"}
HEADS = {
    "ROI_HEADS.NAME": "StandardROIHeads",
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 2,
    "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "ROI_MASK_HEAD.NUM_CONV": 4,
    "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
DC5 = {
    **HEADS,
    "MASK_ON": True,
    "RESNETS.OUT_FEATURES": ["res5"],
    "RESNETS.RES5_DILATION": 2,
    "RPN.IN_FEATURES": ["res5"],
    "ROI_HEADS.IN_FEATURES": ["res5"],
}
BOXES = {
    **HEADS,
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "RPN.PRE_NMS_TOPK_TEST": 1000,
    "RPN.POST_NMS_TOPK_TRAIN": 1000,
    "RPN.POST_NMS_TOPK_TEST": 1000,
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}
FPN = {**BOXES, "MASK_ON": True}
KEYPOINT = {
    **BOXES,
    "KEYPOINT_ON": True,
    "ROI_HEADS.NUM_CLASSES": 1,
    "ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
    "RPN.POST_NMS_TOPK_TRAIN": 1500,
}
R101 = {"RESNETS.DEPTH": 101}
X101 = {
    **R101,
    "PIXEL_STD": [57.375, 57.120, 58.395],
    "RESNETS.STRIDE_IN_1X1": False,
    "RESNETS.NUM_GROUPS": 32,
    "RESNETS.WIDTH_PER_GROUP": 8,
}
# Detectron2's main branch has this one as a LazyConfig alone; these are its settings.
LSJ = {
    "BACKBONE.FREEZE_AT": 0,
    "RESNETS.NORM": "SyncBN",
    "FPN.NORM": "SyncBN",
    "RPN.CONV_DIMS": [-1, -1],
    "ROI_BOX_HEAD.NUM_CONV": 4,
    "ROI_BOX_HEAD.NUM_FC": 1,
    "ROI_BOX_HEAD.NORM": "naiveSyncBN_N",
    "ROI_MASK_HEAD.NORM": "naiveSyncBN_N",
}
MODELS = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": BOXES,
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": {**BOXES, **R101},
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x": C4,
    "COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x": {**C4, **R101},
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x": DC5,
    "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x": {**DC5, **R101},
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": FPN,
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": {**FPN, **R101},
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x": {**FPN, **X101},
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x": KEYPOINT,
    "COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x": {**KEYPOINT, **R101},
    "COCO-Keypoints/keypoint_rcnn_X_101_32x8d_FPN_3x": {**KEYPOINT, **X101},
    "COCO-Keypoints/mask_keypoint_rcnn_R_50_FPN_1x": {**KEYPOINT, "MASK_ON": True},
    "Cityscapes/mask_rcnn_R_50_FPN": {**FPN, "ROI_HEADS.NUM_CLASSES": 8},
    "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ": {**FPN, **LSJ},
}
ROUTES = ["YAML", "LazyConfig"]
# What differs from Detectron2's code are the heads: one model of each kind by both routes, and in training.
BY_YAML = [
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "COCO-Keypoints/mask_keypoint_rcnn_R_50_FPN_1x",
]
TRAINED = [*BY_YAML, "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ"]


def model_from_keys(keys, device, names=None):
    """A model by Detectron2's CfgNode; `names` replaces those of its components."""
    cfg = get_cfg()
    cfg.merge_from_list([f"MODEL.{k}" if i == 0 else k for kv in keys.items() for i, k in enumerate(kv)])
    for node, key in (
        (cfg.MODEL, "META_ARCHITECTURE"),
        (cfg.MODEL.ROI_HEADS, "NAME"),
        (cfg.MODEL.ROI_MASK_HEAD, "NAME"),
        (cfg.MODEL.ROI_KEYPOINT_HEAD, "NAME"),
    ):
        node[key] = (names or {}).get(node[key], node[key])
    cfg.MODEL.DEVICE = device
    with torch.device(device):
        return build_model(cfg)


def model_from_file(file, device):
    with torch.device(device):
        return instantiate(model_zoo.get_config(file).model)


def build(file, route, device="meta"):
    """Our model by either route."""
    return model_from_keys(MODELS[file], device, OURS) if route == "YAML" else model_from_file(file, device)


def settings(model):
    """What the modules compute with besides their parameters, by module and attribute."""
    found = {}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            # Matchers and box transforms are no modules.
            value = vars(value) if type(value).__module__.startswith("detectron2.modeling") else value
            if not key.startswith("_") and (value := _plain(value)) is not None:
                found[f"{prefix}.{key}"] = value
    return found


def _plain(value):
    """Numbers and names, lists and dicts of them; None for anything else."""
    if isinstance(value, dict):
        # A loss that is not named has weight 1.
        return {k: _plain(v) for k, v in value.items() if not (str(k).startswith("loss_") and v == 1)}
    if isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "__iter__") and not isinstance(value, torch.Tensor):
        values = [_plain(v) for v in value]
        return None if None in values else values
    return None


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def frozen(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@functools.cache
def peer_on_meta(file):
    return model_from_keys(MODELS[file], "meta")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("file", MODELS)
class TestModel:
    """At full size; on the meta device, so that it costs nothing."""

    def test_parameters(self, file, route):
        expected, model = peer_on_meta(file), build(file, route)
        assert isinstance(model, mrcnn_plugin.modeling.MaskRCNN)
        assert shapes(model) == shapes(expected)
        assert frozen(model) == frozen(expected)
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in expected.parameters())

    def test_settings(self, file, route):
        expected, model = settings(peer_on_meta(file)), settings(build(file, route))
        assert expected.keys() >= {"proposal_generator.post_nms_topk", "roi_heads.batch_size_per_image"}
        # Ours may have more.
        assert {key: model.get(key) for key in expected} == expected


def test_every_file_of_the_zoo_is_one_of_these():
    """A longer schedule trains the same model."""
    folders = {file.split("/")[0] for file in MODELS}
    compared = set()
    for name in model_zoo.list_configs():
        file = name.removesuffix(".py")
        if file.split("/")[0] not in folders or re.search("torchvision|R_18|lite0|resnet50d|convnext", file):
            continue
        base = next(f for f in (file, file.replace("_3x", "_1x"), file.removesuffix("_coco")) if f in MODELS)
        assert model_zoo.get_config(file).model == model_zoo.get_config(base).model
        compared.add(base)
    assert compared == set(MODELS)


# Few RoIs, and detections from untrained weights too: the comparison needs no more.
def shrink(model):
    model.proposal_generator.post_nms_topk = {True: 1000, False: 16}
    model.roi_heads.batch_size_per_image = 8
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.roi_heads.box_predictor.test_topk_per_image = 3
    return model


def randomize(model):
    """Weights under which every output depends on every layer, at any depth."""
    for name, value in model.state_dict().items():
        if re.search(r"stem.*norm\.weight", name):
            # Pixels, whose deviation is 75, come in by that of the model's inputs.
            value.mul_(model.pixel_std.mean() / 75)
        if re.search(r"(res\d|roi_heads\.res5)\..*conv3\.norm\.weight", name):
            # Without batch statistics, residuals of the size of their block's input would add up.
            value.fill_(0.3)
        # The predictors' tiny initial weights would make every mask 0.5 and every score equal; boxes stay
        # near the proposals.
        if ("predictor" in name and "bbox_pred" not in name) or "score_lowres" in name:
            value.add_(torch.randn_like(value) * (0.05 if value.dim() > 1 else 0.2))
        if name.endswith("mask_head.predictor.weight"):
            # Else, behind a ReLU, a class is foreground everywhere or nowhere.
            value.sub_(value.mean(dim=1, keepdim=True))
    return model


# The tests of one file follow each other: nothing older has to be kept.
@functools.lru_cache(maxsize=1)
def peer(file):
    torch.manual_seed(0)
    return randomize(shrink(model_from_keys(MODELS[file], "cpu")))


def ours(file, route):
    model = shrink(build(file, route, "cpu"))
    model.load_state_dict(peer(file).state_dict(), strict=True)
    return model


@pytest.fixture
def inputs(file):
    heads = peer(file).roi_heads
    return synthetic_inputs(
        [(64, 96), (96, 64)],
        num_classes=heads.num_classes,
        masks=getattr(heads, "mask_on", False),
        keypoints=getattr(heads, "keypoint_on", False),
    )


@torch.no_grad()
def detect(model, inputs):
    return [output["instances"] for output in model.eval()(inputs)]


# Of the peer; the same inputs are drawn each time.
EXPECTED = {}


def expected_of(function, file, inputs):
    if (function, file) not in EXPECTED:
        EXPECTED.clear()
        EXPECTED[function, file] = function(peer(file), inputs)
    return EXPECTED[function, file]


def cases(files):
    """Both routes of some files, and only the LazyConfig of the others: what these build is the same."""
    pairs = [(file, route) for file in files for route in ROUTES if route == "LazyConfig" or file in BY_YAML]
    return pytest.mark.parametrize(("file", "route"), pairs)


@cases(MODELS)
def test_results(file, route, inputs):
    for result, expected in zip(
        detect(ours(file, route), inputs), expected_of(detect, file, inputs), strict=True
    ):
        assert len(result) == len(expected) == 3
        assert result.get_fields().keys() == expected.get_fields().keys()
        assert torch.equal(result.pred_classes, expected.pred_classes)
        close(result.pred_boxes.tensor, expected.pred_boxes.tensor)
        close(result.scores, expected.scores)
        if result.has("pred_masks"):
            # A pixel exactly at the threshold may fall to either side.
            different = (result.pred_masks != expected.pred_masks).float().mean()
            assert 0.001 < expected.pred_masks.float().mean() < 0.5
            assert different < 1e-4
        if result.has("pred_keypoints"):
            keypoints, others = result.pred_keypoints, expected.pred_keypoints
            close(keypoints[..., 2], others[..., 2])
            # Of two maxima of a heatmap that differ by rounding, either may be found.
            moved = (keypoints[..., :2] - others[..., :2]).abs().amax(dim=2) > 1e-3
            assert moved.float().mean() < 0.1
            close(result.pred_keypoint_heatmaps, expected.pred_keypoint_heatmaps)


def close(result, expected):
    # Where the values hardly vary, 1e-3 would show nothing.
    atol = min(1e-3, 0.1 * expected.std().item())
    torch.testing.assert_close(result, expected, atol=atol, rtol=0)


@pytest.fixture
def two_threads():
    """Sums are split among threads, and their rounding decides on which side of a ReLU a unit is.

    With two, as many units differ from Detectron2's as the bound on the gradients allows for.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@cases(TRAINED)
def test_losses_and_gradients(file, route, inputs):
    expected_losses, expected_gradients, _ = expected_of(train_step, file, inputs)
    losses, gradients, _ = train_step(ours(file, route), inputs)
    torch.testing.assert_close(losses, expected_losses, atol=1e-4, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        # Looser than the losses: in some place rounding decides on which side of a ReLU a unit is.
        assert (gradient - expected).norm() <= 5e-3 * expected.norm() + 1e-6, name
