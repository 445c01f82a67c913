"""The predictor: masks as RLE without bitmasks, one decoding of each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.modeling.proposal_generator import StandardRPNHead
from helpers.tiny_runs import tiny_arguments, train_in_process
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_plugin.modeling import MaskRCNN, rcnn
from mrcnn_plugin.predict import build_predictor, run_files

MASK_RCNN = "model._target_=mrcnn_plugin.modeling.MaskRCNN"


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Path:
    """A finished run of a MaskRCNN."""
    folder = tmp_path_factory.mktemp("mask_rcnn")
    assert train_in_process(tiny_arguments(shapes, folder, MASK_RCNN, "train.max_iter=2")) == 0
    return folder


@pytest.fixture
def predictor(run):
    return build_predictor(*run_files(str(run)), threshold=0.0)


@pytest.fixture
def image(shapes) -> str:
    return str(sorted(Path(MetadataCatalog.get(shapes["val"]).image_root).iterdir())[0])


def test_masks_are_never_pasted(predictor, image, monkeypatch):
    model = predictor.model
    assert isinstance(model, MaskRCNN)
    bitmasks = model(
        [DatasetMapper(is_train=False, augmentations=[], image_format="BGR")({"file_name": image})]
    )
    expected = bitmasks[0]["instances"]
    monkeypatch.setattr(rcnn, "paste_masks", None)
    instances, _ = predictor.predict(image)
    assert len(instances) == len(expected) > 0
    assert not instances.has("pred_masks")
    decoded = np.stack([mask_util.decode(rle) for rle in instances.pred_masks_rle])
    assert np.array_equal(decoded, expected.pred_masks.numpy())
    assert model.mask_format == "bitmask", "the model is as it was"


def test_an_image_is_decoded_once(predictor, image, monkeypatch):
    read, files = utils.read_image, []
    monkeypatch.setattr(
        utils, "read_image", lambda file, format=None: files.append(file) or read(file, format)
    )
    _, picture = predictor.predict(image)
    assert files == [image]
    assert np.array_equal(picture, np.asarray(Image.open(image).convert("RGB")))


def test_a_mapper_of_ones_own_is_called(predictor, image):
    class Inverted(DatasetMapper):
        def __call__(self, dataset_dict):
            result = super().__call__(dataset_dict)
            return {**result, "image": 255 - result["image"]}

    plain, _ = predictor.read(image)
    predictor._mapper = Inverted(is_train=False, augmentations=[], image_format="BGR")
    inverted, picture = predictor.read(image)
    assert torch.equal(inverted["image"], 255 - plain["image"])
    assert np.array_equal(picture, np.asarray(Image.open(image).convert("RGB")))


def test_an_optimized_copy_predicts_the_same(run, predictor, image):
    plain = build_predictor(*run_files(str(run)), threshold=0.0, optimized=False)
    kinds = [type(one.model.proposal_generator.rpn_head) for one in (plain, predictor)]
    assert kinds[0] is StandardRPNHead is not kinds[1]
    expected, result = plain(image), predictor(image)
    assert torch.equal(result.pred_classes, expected.pred_classes)
    torch.testing.assert_close(result.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)
    torch.testing.assert_close(result.scores, expected.scores, atol=1e-4, rtol=0)


def test_threshold(predictor, image):
    scores = predictor(image).scores
    predictor.threshold = float(scores.median())
    kept = predictor(image)
    assert len(kept) == int((scores >= predictor.threshold).sum()) == len(kept.pred_masks_rle) < len(scores)
