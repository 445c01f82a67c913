"""Test-time augmentation: Detectron2's class as the oracle for boxes and masks, symmetry for keypoints."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from torch import nn

from mrcnn_plugin import model_zoo
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import RCNNWithTTA, RelativeScales, returning_masks_as
from mrcnn_plugin.modeling.test_time_augmentation import flip_indices

HEIGHT, WIDTH = 64, 96
PEOPLE = Metadata().set(
    keypoint_names=("nose", "left_eye", "right_eye", *(f"point{index}" for index in range(14))),
    keypoint_flip_map=(("left_eye", "right_eye"),),
)


def build(config: str) -> nn.Module:
    torch.manual_seed(0)
    cfg = model_zoo.get_config(config).model
    cfg.backbone.bottom_up.stages.norm = cfg.backbone.bottom_up.stem.norm = "FrozenBN"
    cfg.proposal_generator.post_nms_topk = [20, 20]
    cfg.roi_heads.box_predictor.test_score_thresh = 0.0
    cfg.roi_heads.box_predictor.test_topk_per_image = 8
    model = instantiate(cfg).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("predictor.weight") or "score_lowres.weight" in name:
            # Untrained predictors give all but one value.
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def mask_model():
    return build("Shapes/mask_rcnn_R_18_FPN.py")


@pytest.fixture(scope="module")
def keypoint_model():
    return build("Shapes/keypoint_rcnn_R_18_FPN.py")


@pytest.fixture
def model_input() -> dict:
    image = torch.randint(0, 255, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    # At another size than the file's.
    return {"image": image.to(torch.uint8), "height": 2 * HEIGHT, "width": 2 * WIDTH}


def run(model, model_input):
    with torch.no_grad():
        return model([model_input])[0]["instances"]


def test_boxes_and_masks_are_detectron2s(mask_model, model_input):
    mapper = DatasetMapperTTA([48, 64], 1000, True)
    mine = RCNNWithTTA(mask_model, mapper, Metadata())
    theirs = GeneralizedRCNNWithTTA(mine.cfg, mask_model, mapper)
    expected, found = run(theirs, model_input), run(mine, model_input)
    assert len(found) == len(expected) == 8
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-4
    assert found.pred_masks.any()


def test_masks_in_the_form_that_is_requested(mask_model, model_input):
    from pycocotools import mask as mask_util

    augmented = RCNNWithTTA(mask_model, RelativeScales((1.0,), flip=True), Metadata())
    bitmasks = run(augmented, model_input).pred_masks
    with returning_masks_as(augmented, "rle"):
        rles = run(augmented, model_input).pred_masks_rle
    assert all((mask_util.decode(rle) == mask.numpy()).all() for rle, mask in zip(rles, bitmasks))


def test_an_augmentation_that_changes_nothing(keypoint_model, model_input):
    # At the network's size: heatmaps are decoded on a grid of the image's pixels.
    model_input = {**model_input, "height": HEIGHT, "width": WIDTH}
    augmented = RCNNWithTTA(keypoint_model, RelativeScales((1.0,), flip=False), Metadata())
    plain, found = run(keypoint_model, model_input), run(augmented, model_input)
    assert len(found) == len(plain) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, plain.pred_boxes.tensor, atol=1e-3, rtol=0)
    assert found.pred_keypoints.shape == (len(found), 17, 3)
    torch.testing.assert_close(found.pred_keypoints, plain.pred_keypoints, atol=1e-2, rtol=0)


def test_keypoints_of_the_mirror_image_are_mirrored(keypoint_model, model_input):
    augmented = RCNNWithTTA(keypoint_model, RelativeScales((1.0,), flip=True), PEOPLE)
    found = run(augmented, model_input)
    mirrored = run(augmented, {**model_input, "image": model_input["image"].flip(2)})
    width = model_input["width"]
    expected = mirrored.pred_keypoints[:, flip_indices(PEOPLE)]
    expected[:, :, 0] = width - expected[:, :, 0]
    assert len(found) == len(mirrored) > 0
    torch.testing.assert_close(found.scores, mirrored.scores, atol=1e-5, rtol=0)
    # The highest of a heatmap's grid points: equal ones are taken from the other side.
    distance = (found.pred_keypoints - expected)[:, :, :2].abs().amax(dim=2)
    assert (distance < 2).float().mean() > 0.95
    # The partner of an eye is the other eye.
    assert flip_indices(PEOPLE)[:4] == [0, 2, 1, 3]


def test_heads_are_on_again(keypoint_model, model_input):
    run(RCNNWithTTA(keypoint_model, RelativeScales((1.0,), flip=False), PEOPLE), model_input)
    assert keypoint_model.roi_heads.keypoint_on
    assert run(keypoint_model, model_input).has("pred_keypoints")


def test_what_cannot_be_augmented_is_refused(keypoint_model):
    with pytest.raises(ConfigError, match="keypoint_flip_map; they are missing"):
        RCNNWithTTA(keypoint_model, RelativeScales(), Metadata())
    with pytest.raises(ConfigError, match="takes a GeneralizedRCNN with RoI heads, got Identity"):
        RCNNWithTTA(nn.Identity(), RelativeScales(), PEOPLE)


def test_relative_scales(model_input):
    copies = RelativeScales((0.5, 1.0), flip=True)(model_input)
    assert [tuple(copy["image"].shape) for copy in copies] == [(3, 32, 48)] * 2 + [(3, 64, 96)] * 2
    assert torch.equal(copies[2]["image"].flip(2), copies[3]["image"])
    assert torch.equal(copies[2]["image"], model_input["image"])
