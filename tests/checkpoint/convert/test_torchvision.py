"""torchvision's detectors and ours give equal outputs on the same, converted weights."""

import pytest
import torch
import torchvision
from detectron2.config import instantiate
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from mrcnn_plugin import model_zoo
from mrcnn_plugin.checkpoint.convert import convert_torchvision
from mrcnn_plugin.checkpoint.convert.torchvision import COCO_IDS
from mrcnn_plugin.configs.common.models.torchvision import use_torchvision
from mrcnn_plugin.modeling.anchor_generator import RoundedAnchorGenerator

# Neither height nor width of the padded batch (96, 160) is a multiple of 64: P6 has torchvision's own stride.
SIZES = ((96, 160), (96, 130))
# Few of each, for speed.
PROPOSALS, DETECTIONS = 100, 8


def randomise(model):
    """Weights that a trained model could have: activations of order 1, scores that are peaked."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        draw = torch.randn(value.shape, generator=generator) if value.is_floating_point() else None
        if draw is None:
            continue
        if name.endswith("running_var"):
            # Small ones in the backbone show its epsilon.
            value.copy_(draw.abs() + (1e-4 if "body" in name else 0.5))
        elif value.dim() == 1:
            # A deep sum of residuals stays bounded where each adds little.
            value.copy_(0.2 * draw + (0.4 if name.endswith("weight") else 0.0))
        else:
            value.copy_(draw * (1.0 / max(1, value[0].numel())) ** 0.5)
    model.roi_heads.box_predictor.cls_score.weight.data *= 4
    # Boxes stay wide: torchvision drops those narrower than 0.01 pixels, Detectron2 does not.
    model.roi_heads.box_predictor.bbox_pred.weight.data *= 0.1
    model.rpn.head.bbox_pred.weight.data *= 0.1
    return model.eval()


def torchvision_model(kind: str, version: int):
    sizes = {"min_size": SIZES[0][0], "max_size": 1000, "box_detections_per_img": DETECTIONS}
    sizes |= {"rpn_pre_nms_top_n_test": PROPOSALS, "rpn_post_nms_top_n_test": PROPOSALS}
    if version == 2 or kind == "fasterrcnn":
        name = f"{kind}_resnet50_fpn" + ("_v2" if version == 2 else "")
        build = getattr(torchvision.models.detection, name)
        return randomise(build(weights=None, weights_backbone=None, **sizes))
    # As torchvision builds its pre-trained models, whose weights it would fetch: frozen BatchNorm, epsilon 0.
    body = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    build, classes = (MaskRCNN, 91) if kind == "maskrcnn" else (KeypointRCNN, 2)
    model = build(_resnet_fpn_extractor(body, 3), classes, **sizes)
    overwrite_eps(model, 0.0)
    return randomise(model)


def our_model(kind: str, version: int, num_classes: int):
    name = "keypoint_rcnn_fpn" if kind == "keypointrcnn" else "mask_rcnn_fpn"
    model = model_zoo.get_config(f"common/models/{name}.py").model
    dataloader = model_zoo.get_config("common/data/coco.py").dataloader
    use_torchvision(model, dataloader, version=version)
    for split in ("train", "test"):
        assert dataloader[split].mapper.image_format == model.input_format == "RGB"
    model.roi_heads.num_classes = num_classes
    model.proposal_generator.pre_nms_topk = model.proposal_generator.post_nms_topk = [PROPOSALS, PROPOSALS]
    model.roi_heads.box_predictor.test_topk_per_image = DETECTIONS
    if kind == "fasterrcnn":
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            model.roi_heads.pop(key)
    return instantiate(model).eval()


@torch.no_grad()
def torchvision_outputs(model, images):
    """Boxes and masks as they leave the heads, before torchvision pastes the masks into the image."""
    batch, _ = model.transform([image.float() / 255 for image in images])
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    detections, _ = model.roi_heads(features, proposals, batch.image_sizes)
    return features, proposals, detections


@torch.no_grad()
def our_outputs(model, images):
    inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]} for image in images]
    batch = model.preprocess_image(inputs)
    features = model.backbone(batch.tensor)
    proposals, _ = model.proposal_generator(batch, features)
    detections, _ = model.roi_heads(batch, features, proposals)
    return features, proposals, detections


def check_equal(theirs, ours, labels):
    """Same features, proposals, and detections in the same order, class for class."""
    for want, got in zip(theirs[0].values(), ours[0].values()):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    for want, got in zip(theirs[1], ours[1]):
        torch.testing.assert_close(got.proposal_boxes.tensor, want, rtol=1e-4, atol=1e-2)
    for want, got in zip(theirs[2], ours[2]):
        assert len(got) == len(want["boxes"]) >= 5
        # Scores that are nearly the same may change places: the nearest of the same class is compared.
        distance = torch.cdist(want["boxes"], got.pred_boxes.tensor)
        distance += 1e6 * (want["labels"][:, None] != torch.as_tensor(labels)[got.pred_classes])
        distance += 100 * (want["scores"][:, None] - got.scores).abs()
        order = distance.argmin(dim=1)
        assert len(order.unique()) == len(order)
        got = got[order]
        assert torch.equal(torch.as_tensor(labels)[got.pred_classes], want["labels"])
        torch.testing.assert_close(got.pred_boxes.tensor, want["boxes"], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(got.scores, want["scores"], rtol=1e-3, atol=1e-4)
        if "masks" in want:
            torch.testing.assert_close(got.pred_masks, want["masks"], rtol=1e-3, atol=1e-3)
        if "keypoints" in want:
            # Third in torchvision is "visible", in Detectron2 a probability: only the places are comparable.
            torch.testing.assert_close(
                got.pred_keypoints[..., :2], want["keypoints"][..., :2], rtol=0, atol=0.05
            )


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]


@pytest.mark.parametrize(
    ("kind", "version"), [("maskrcnn", 1), ("keypointrcnn", 1), ("fasterrcnn", 1), ("maskrcnn", 2)]
)
def test_outputs_equal_torchvisions(kind, version):
    theirs = torchvision_model(kind, version)
    classes = theirs.roi_heads.box_predictor.cls_score.out_features - 1
    labels = range(1, classes + 1)
    ours = our_model(kind, version, classes)
    # strict: every parameter of the model, and no other.
    ours.load_state_dict(convert_torchvision(theirs.state_dict(), labels=labels), strict=True)
    check_equal(torchvision_outputs(theirs, images()), our_outputs(ours, images()), labels)


def test_coco_classes_that_never_were_are_left_out():
    """With the unused ids' scores at nothing, as in trained models, 80 classes give what 91 rows give."""
    from detectron2.data import MetadataCatalog

    assert dict(enumerate(COCO_IDS)) == {
        i: k for k, i in MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id.items()
    }
    theirs = torchvision_model("maskrcnn", 1)
    unused = sorted(set(range(1, 91)) - set(COCO_IDS))
    theirs.roi_heads.box_predictor.cls_score.bias.data[unused] = -1e4
    ours = our_model("maskrcnn", 1, 80)
    ours.load_state_dict(convert_torchvision(theirs.state_dict()), strict=True)
    check_equal(torchvision_outputs(theirs, images()), our_outputs(ours, images()), COCO_IDS)


def test_names_of_older_files_are_known():
    """torchvision's published files have the names it used before 0.13."""
    new = torchvision_model("maskrcnn", 1).state_dict()
    old = {}
    for name, value in new.items():
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for kind in ("inner_blocks", "layer_blocks"):
            for i in range(4):
                name = name.replace(f"{kind}.{i}.0.", f"{kind}.{i}.")
        for i in range(4):
            name = name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        old[name] = value
    assert sum(a != b for a, b in zip(old, new)) == 2 + 16 + 8
    converted, want = convert_torchvision(old), convert_torchvision(new)
    assert converted.keys() == want.keys()
    assert all(torch.equal(converted[name], want[name]) for name in want)


def test_what_is_no_detector_of_torchvisions_is_an_error():
    state = torchvision_model("fasterrcnn", 1).state_dict()
    with pytest.raises(ValueError, match=r"torchvision parameters .* do not have: head\.weight"):
        convert_torchvision({**state, "head.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"labels must be between 1 and 90, got \[0, 1\]"):
        convert_torchvision(state, labels=[0, 1])


def test_wrong_versions_are_named():
    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        use_torchvision(model, model_zoo.get_config("common/data/coco.py").dataloader, version=3)


def test_anchors_equal_torchvisions():
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes, ratios = [[32], [64], [128], [256], [512]], [0.5, 1.0, 2.0]
    image = torch.zeros(1, 3, 800, 1344)
    features = [torch.zeros(1, 1, -(-800 // s), -(-1344 // s)) for s in (4, 8, 16, 32, 64)]
    theirs = AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * 5)
    want = theirs(ImageList(image, [(800, 1344)]), features)[0]
    ours = RoundedAnchorGenerator(sizes=sizes, aspect_ratios=ratios, strides=[4, 8, 16, 32, 64], offset=0.0)
    got = torch.cat([boxes.tensor for boxes in ours(features)])
    assert torch.equal(got, want)
    # P6 of 800 pixels: 13 rows, 61 pixels apart.
    assert got[-21 * 3, 1] - got[-42 * 3, 1] == 61
