"""COCO's numbers per class and per group: those of COCO's own summary, by either library."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np
import pytest
from helpers.detections import coco_of, dataset_of, detection, random_case
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.evaluation.analysis import coco_scores
from mrcnn_plugin.evaluation.analysis.coco_scores import CocoScores
from mrcnn_plugin.evaluation.analysis.matching import RESULT_KEYS
from mrcnn_plugin.evaluation.coco_evaluation import evaluate_coco


@pytest.fixture(params=["faster_coco_eval", "pycocotools"])
def library(request, monkeypatch):
    """Each of the libraries that score."""
    if request.param == "pycocotools":
        monkeypatch.setattr(coco_scores.importlib.util, "find_spec", lambda name: None)
    elif importlib.util.find_spec("faster_coco_eval") is None:
        pytest.skip("faster-coco-eval is not installed")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", RESULT_KEYS)
def test_means_are_cocos_summary(task):
    dataset, results = random_case(0)
    scores = CocoScores(coco_of(dataset), results, task)
    with contextlib.redirect_stdout(None):
        stats = evaluate_coco(coco_of(dataset), results, task, faster=False).stats
    mean = scores.mean_row()
    names = ["AP", "AP50", "AP75", *(["APs"] if task != "keypoints" else []), "APm", "APl"]
    assert [mean[name] for name in names] == pytest.approx(
        [100 * value if value > -1 else np.nan for value in stats[: len(names)]], nan_ok=True
    )
    # Without objects of a class there is nothing to tell about it.
    rows = scores.class_rows()
    assert all(np.isnan(value) for value in rows[2].values())
    assert mean["AP"] == pytest.approx(np.mean([rows[0]["AP"], rows[1]["AP"]]))
    # The curves' AP is COCO's.
    assert 100 * scores.mean_curves().mean() == pytest.approx(100 * stats[0])
    assert 100 * scores.mean_curves()[0].mean() == pytest.approx(100 * stats[1])
    assert mean["AR"] == pytest.approx(100 * stats[8 if task != "keypoints" else 5])


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", RESULT_KEYS)
def test_groups_of_sizes_are_cocos_ranges_of_areas(task):
    dataset, results = random_case(1)
    groups = CocoScores(coco_of(dataset), results, task).by_size()
    truth = coco_of(dataset)
    with contextlib.redirect_stdout(None):
        predicted = [
            {k: v for k, v in r.items() if task != "segm" or k != "bbox"} | {"score": r["score"]}
            for r in results
        ]
        scorer = COCOeval(truth, truth.loadRes(predicted), task)
        scorer.params.areaRng = [[16**2, 32**2 - 1e-9], [32**2, 64**2 - 1e-9]]
        scorer.params.areaRngLbl = ["16–32", "32–64"]
        scorer.evaluate()
        scorer.accumulate()
    by_name = {group.name: group for group in groups}
    for index, name in enumerate(scorer.params.areaRngLbl):
        precision = scorer.eval["precision"][..., index, -1]
        assert by_name[name].ap == pytest.approx(100 * precision[precision > -1].mean())
        assert by_name[name].ap50 == pytest.approx(100 * precision[0][precision[0] > -1].mean())
    real = [
        a for a in dataset["annotations"] if not a["iscrowd"] and (task != "keypoints" or a["num_keypoints"])
    ]
    assert sum(group.objects for group in groups) == len(real)


@pytest.mark.usefixtures("library")
def test_groups_by_hand():
    wide, tall, square = (10, 10, 80, 10), (10, 30, 10, 40), (60, 60, 20, 20)
    truth = coco_of(dataset_of([[(0, wide), (0, tall)], [(0, square)]]))
    results = [
        detection(0, 0, wide, 0.9),
        detection(0, 0, (100, 60, 10, 50), 0.8),  # wrong, and tall
        detection(0, 0, tall, 0.7),
        detection(1, 0, (100, 60, 20, 20), 0.6),  # wrong, and square; the right one is not found
    ]
    scores = CocoScores(truth, results, "bbox")
    by_aspect = {group.name: (group.objects, group.ap50) for group in scores.by_aspect_ratio()}
    assert by_aspect == {
        "< 1:3": (1, pytest.approx(50)),
        "2:3 to 3:2": (1, pytest.approx(0)),
        "> 3:1": (1, pytest.approx(100)),
    }
    by_crowding = {group.name: (group.objects, group.ap50) for group in scores.by_crowding()}
    # Two of three are right in the image of two: precision 1 up to recall 0.5, then 2/3.
    assert by_crowding == {
        "1": (1, pytest.approx(0)),
        "2–3": (2, pytest.approx(100 * (51 + 50 * 2 / 3) / 101)),
    }
    # The order in which groups are asked for does not matter, nor do they change the rest.
    assert {group.name for group in scores.by_size()} == {"16–32"}
    assert scores.mean_row() == pytest.approx(CocoScores(truth, results, "bbox").mean_row(), nan_ok=True)
