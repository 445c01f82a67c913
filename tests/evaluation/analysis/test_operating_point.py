"""Best thresholds, calibration and confusion, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.detections import coco_of, dataset_of, detection, random_case
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_plugin.evaluation.analysis.matching import match
from mrcnn_plugin.evaluation.analysis.operating_point import (
    above,
    best_thresholds,
    calibration,
    confusion,
    f1_curve,
)

BOX, OTHER, AWAY = (10, 10, 20, 20), (60, 10, 20, 20), (100, 80, 20, 20)


def matches_of(scene, *detections, **options):
    return match(
        coco_of(dataset_of([scene])), [detection(0, *values) for values in detections], "bbox", **options
    )


def test_best_f1_by_hand():
    # Down to 0.8 one of one is right (P 1, R 1/2), to 0.7 one of two, to 0.6 two of three (P 2/3, R 1).
    matches = matches_of(
        [(0, BOX), (0, OTHER)], (0, BOX, 0.8), (0, AWAY, 0.7), (0, OTHER, 0.6), (0, AWAY, 0.1)
    )
    best = best_thresholds(matches)
    assert best.threshold[0] == 0.6
    assert best.f1[0] == pytest.approx(0.8)
    assert best.precision[0] == pytest.approx(2 / 3)
    assert best.recall[0] == 1
    assert np.isnan(best.f1[1:]).all()


def test_detections_of_one_score_are_kept_together():
    matches = matches_of(
        [(0, BOX), (0, OTHER)], (0, BOX, 0.8), (0, AWAY, 0.8), (0, AWAY, 0.8), (0, OTHER, 0.5)
    )
    best = best_thresholds(matches)
    # The first alone would have F1 2/3; all three at 0.8 have 2/5, all four 4/6.
    assert best.threshold[0] == 0.5
    assert best.f1[0] == pytest.approx(2 / 3)


def test_a_class_of_which_nothing_is_found():
    best = best_thresholds(matches_of([(0, BOX), (1, OTHER)], (0, AWAY, 0.8)))
    assert np.isnan(best.threshold[:2]).all()
    assert best.f1[:2].tolist() == best.recall[:2].tolist() == [0, 0]


@given(seed=st.integers(0, 500))
@settings(max_examples=15)
def test_no_threshold_is_better(seed):
    dataset, results = random_case(seed, images=4)
    matches = match(coco_of(dataset), results, "bbox")
    best = best_thresholds(matches)
    for index in np.flatnonzero(matches.truths_per_class):
        mine = (matches.det_class == index) & ~matches.ignored
        f1 = [
            2
            * (matches.correct & mine & (matches.score >= threshold)).sum()
            / ((mine & (matches.score >= threshold)).sum() + matches.truths_per_class[index])
            for threshold in matches.score[mine]
        ]
        assert best.f1[index] == pytest.approx(max(f1, default=0))


def test_curve_of_all_classes():
    matches = matches_of([(0, BOX), (1, OTHER)], (0, BOX, 0.8), (1, AWAY, 0.6), (1, OTHER, 0.4))
    precision, recall, f1 = f1_curve(matches, np.array([0.4, 0.5, 0.8, 0.9]))
    np.testing.assert_allclose(precision, [2 / 3, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(recall, [1, 1 / 2, 1 / 2, 0])
    np.testing.assert_allclose(f1, [4 / 5, 1 / 2, 2 / 3, 0])


def test_calibration_by_hand():
    matches = matches_of(
        [(0, BOX), (0, OTHER), (1, AWAY, {"iscrowd": 1})],
        *((0, BOX, 1.0), (0, OTHER, 0.94), (0, AWAY, 0.92), (0, AWAY, 0.25), (1, AWAY, 0.05)),
    )
    found = calibration(matches)
    assert found.count.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    assert found.precision[[2, 9]].tolist() == pytest.approx([0, 2 / 3])
    assert found.confidence[[2, 9]].tolist() == pytest.approx([0.25, 2.86 / 3])
    assert found.error == pytest.approx((0.25 + (2.86 - 2)) / 4)
    assert np.isnan(calibration(matches_of([(0, BOX)])).error)


def test_confusion_by_hand():
    matches = matches_of(
        [(0, BOX), (0, OTHER), (1, AWAY), (0, (10, 90, 20, 20), {"iscrowd": 1})],
        *((0, BOX, 0.9), (1, OTHER, 0.8), (1, BOX, 0.7), (1, (60, 60, 20, 20), 0.6)),
        *((1, AWAY, 0.3), (0, (10, 90, 10, 10), 0.9)),
    )
    table = confusion(matches, np.array([0.5, 0.5, np.nan]))
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1  # a cat
    expected[0, 1] = 1  # a cat taken for a dog
    expected[3, 1] = 2  # a cat that was already found, and background, taken for dogs
    expected[1, 3] = 1  # a dog, detected below the threshold only
    assert (table == expected).all()


def test_where_no_threshold_is_best_it_is_a_half():
    matches = matches_of([(0, BOX)], (0, AWAY, 0.6), (0, AWAY, 0.4))
    assert above(matches, np.array([np.nan] * 3)).tolist() == [True, False]


@given(seed=st.integers(0, 500))
@settings(max_examples=10)
def test_rows_of_the_confusion_are_all_annotations(seed):
    dataset, results = random_case(seed, images=4)
    matches = match(coco_of(dataset), results, "bbox")
    thresholds = best_thresholds(matches).threshold
    table = confusion(matches, thresholds)
    assert (table[:-1].sum(axis=1) == matches.truths_per_class).all()
    kept = above(matches, thresholds) & ~matches.ignored
    assert (table[:, :-1].sum(axis=0) == np.bincount(matches.det_class[kept], minlength=3)).all()
    assert (np.diag(table)[:-1] == np.bincount(matches.det_class[kept & matches.correct], minlength=3)).all()
