"""Boundary AP: hand-computed IoUs, and the command on a results file."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_plugin.evaluation import boundary
from mrcnn_plugin.evaluation.coco_evaluation import evaluate_coco

SIZE = 200
# Of the diagonal, 282.8 pixels: a band of 10.
RATIO = 10 / (SIZE * 2**0.5)


def rle(*boxes):
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = 1
    code = coco_mask.encode(mask)
    return {"size": [SIZE, SIZE], "counts": code["counts"].decode()}


def annotations(segmentation):
    area = int(coco_mask.area(segmentation))
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": area, "bbox": [0, 0, 1, 1]}
    return {
        "info": {},
        "images": [{"id": 1, "height": SIZE, "width": SIZE, "file_name": ""}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [annotation | {"segmentation": segmentation}],
    }


def result(segmentation, **fields):
    return {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": segmentation, **fields}


@pytest.fixture
def coco():
    made = COCO()
    made.dataset = annotations(rle((50, 50, 150, 150)))
    made.createIndex()
    return made


@pytest.mark.parametrize(
    ("predicted", "iou"),
    [
        ((50, 50, 150, 150), 1.0),
        # A square two pixels inwards of the other: bands of 10 pixels along sides of 96 and of 100. They
        # share a frame from 2 to 10 pixels within the larger square: 2816 of 3440 + 3600 - 2816 pixels.
        ((52, 52, 148, 148), 2 / 3),
    ],
)
def test_boundary_iou_by_hand(coco, predicted, iou):
    scorer = evaluate_coco(coco, [result(rle(predicted))], "boundary", dilation_ratio=RATIO)
    # AP is the part of the thresholds 0.5, 0.55, ..., 0.95 that the IoU reaches.
    reached = np.mean(np.linspace(0.5, 0.95, 10) <= iou)
    assert scorer.stats[0] == pytest.approx(reached)
    quality = boundary.mask_quality(coco, [result(rle(predicted))], dilation_ratio=RATIO)
    assert quality["boundary"]["AP"] == pytest.approx(100 * reached)
    # 0.9216 of the pixels: 9 of the 10 thresholds.
    assert quality["segm"]["AP"] == pytest.approx(100 if iou == 1 else 90)


def test_a_narrower_band_is_stricter(coco):
    predicted = [result(rle((52, 52, 148, 148)))]
    wide, narrow = (
        boundary.mask_quality(coco, predicted, dilation_ratio=ratio)["boundary"]["AP"]
        for ratio in (0.1, 0.02)
    )
    assert narrow < wide


def test_mask_scores_rank(coco):
    wrong, right = result(rle((0, 0, 20, 20)), score=0.9, mask_score=0.1), result(rle((50, 50, 150, 150)))
    assert boundary.mask_quality(coco, [wrong, right])["boundary"]["AP"] == pytest.approx(100)
    assert boundary.mask_quality(coco, [wrong | {"mask_score": 0.8}, right])["boundary"]["AP"] < 60


def test_command(coco, tmp_path, capsys):
    results, truth = tmp_path / "results.json", tmp_path / "truth.json"
    truth.write_text(json.dumps(coco.dataset))
    results.write_text(json.dumps([result(rle((50, 50, 150, 150)), bbox=[50, 50, 100, 100])]))
    assert boundary.main([str(results), str(truth)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["boundary"]["AP"] == printed["segm"]["AP75"] == pytest.approx(100)

    results.write_text("[]")
    assert boundary.main([str(results), str(truth)]) == 1
    assert "holds no masks" in capsys.readouterr().err
    assert boundary.main([str(results), "no_such_data_set"]) == 1
    assert "no_such_data_set" in capsys.readouterr().err


def test_pycocotools_has_no_boundaries(coco):
    with pytest.raises(ValueError, match="needs faster-coco-eval"):
        evaluate_coco(coco, [result(rle((0, 0, 9, 9)))], "boundary", faster=False)
