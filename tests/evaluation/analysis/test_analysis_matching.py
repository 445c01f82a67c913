"""Matches: COCO's, shown by the AP that follows from them, and by hand."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from helpers.detections import coco_of, dataset_of, detection, random_case
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.evaluation.analysis.error_types import average_precision
from mrcnn_plugin.evaluation.analysis.matching import COCO_SIGMAS, RESULT_KEYS, match, oks
from mrcnn_plugin.evaluation.coco_evaluation import evaluate_coco


@pytest.mark.parametrize("task", RESULT_KEYS)
@pytest.mark.parametrize("seed", range(3))
def test_ap_of_the_matches_is_cocos(task, seed):
    dataset, results = random_case(seed)
    truth = coco_of(dataset)
    for iou, column in ((0.5, 0), (0.75, 5)):
        matches = match(truth, results, task, iou=iou)
        with contextlib.redirect_stdout(None):
            precision = evaluate_coco(truth, results, task, faster=False).eval["precision"][
                column, :, :, 0, -1
            ]
        for index, number in enumerate(matches.truths_per_class):
            mine = (matches.det_class == index) & ~matches.ignored
            ap = average_precision(matches.score[mine], matches.correct[mine], number)
            assert ap == pytest.approx(100 * max(precision[:, index].mean(), 0), abs=1e-9)
    assert matches.truths_per_class[2] == 0


def test_each_annotation_is_taken_once_by_the_highest_score():
    truth = coco_of(dataset_of([[(0, (10, 10, 20, 20)), (0, (12, 10, 20, 20))]]))
    results = [
        detection(0, 0, (10, 10, 20, 20), 0.5),
        detection(0, 0, (11, 10, 20, 20), 0.9),
        detection(0, 0, (12, 10, 20, 20), 0.4),
    ]
    matches = match(truth, results, "bbox")
    assert matches.result.tolist() == [1, 0, 2]
    # The strongest overlaps both alike and takes the first; the next gets the other, the last none.
    assert matches.truth.tolist() == [0, 1, -1]
    assert matches.found.all()


def test_a_crowd_takes_any_number_and_counts_none():
    truth = coco_of(dataset_of([[(0, (0, 0, 60, 60), {"iscrowd": 1}), (0, (100, 50, 20, 20))]]))
    results = [detection(0, 0, (5 * i, 5, 10, 10), 0.9 - 0.1 * i) for i in range(3)]
    matches = match(truth, [*results, detection(0, 1, (5, 5, 10, 10), 0.1)], "segm")
    assert matches.ignored.tolist() == [True, True, True, False]
    assert not matches.correct.any()
    assert matches.truths_per_class.tolist() == [1, 0, 0]


def test_only_the_strongest_of_a_class_count():
    truth = coco_of(dataset_of([[(0, (10, 10, 20, 20))]]))
    results = [detection(0, which, (10, 10, 20, 20), 0.1 * i) for i in range(1, 6) for which in (0, 1)]
    matches = match(truth, results, "bbox", max_dets=2)
    assert [(r // 2, r % 2) for r in matches.result.tolist()] == [(4, 0), (4, 1), (3, 0), (3, 1)]


def test_mask_scores_rank_masks_alone():
    truth = coco_of(dataset_of([[(0, (10, 10, 20, 20))]]))
    results = [
        detection(0, 0, (10, 10, 20, 20), 0.9, mask_score=0.2),
        detection(0, 0, (10, 10, 20, 20), 0.5, mask_score=0.6),
    ]
    assert match(truth, results, "bbox").result.tolist() == [0, 1]
    assert match(truth, results, "segm").result.tolist() == [1, 0]
    assert match(truth, results, "segm").score.tolist() == [0.6, 0.2]


def test_classes_and_results_that_the_data_set_does_not_have_are_left_out():
    truth = coco_of(dataset_of([[(0, (10, 10, 20, 20))], []]))
    unknown = detection(0, 7, (10, 10, 20, 20), 0.9)
    without_mask = {k: v for k, v in detection(0, 0, (10, 10, 20, 20), 0.9).items() if k != "segmentation"}
    matches = match(truth, [unknown, without_mask], "segm")
    assert matches.result.size == 0
    assert [ious.shape for ious in matches.ious] == [(0, 1), (0, 0)]
    assert match(truth, [unknown, without_mask], "bbox").result.tolist() == [1]


def test_oks_is_that_of_pycocotools():
    dataset, results = random_case(4, crowds=False)
    dataset["annotations"][0]["keypoints"][2::3] = [0] * 17  # none labelled: compared with the box
    truth = coco_of(dataset)
    with contextlib.redirect_stdout(None):
        scorer = COCOeval(truth, truth.loadRes([dict(result) for result in results]), "keypoints")
        scorer.params.useCats = 0
        scorer._prepare()
    for image in truth.imgs:
        for category in truth.cats:
            expected = scorer.computeOks(image, category)
            if not len(expected):
                continue
            dets = sorted(
                (r for r in results if r["image_id"] == image and r["category_id"] == category),
                key=lambda result: -result["score"],
            )
            truths = [a for a in truth.imgToAnns[image] if a["category_id"] == category]
            np.testing.assert_allclose(oks(dets, truths, np.array(COCO_SIGMAS)), expected, rtol=1e-9)
