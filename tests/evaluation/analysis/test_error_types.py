"""TIDE's error types: by hand, and against tidecv's numbers."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from helpers.detections import coco_of, dataset_of, detection, random_case

from mrcnn_plugin.evaluation.analysis.error_types import ERROR_NAMES, average_precision, error_types
from mrcnn_plugin.evaluation.analysis.matching import match


def test_one_error_of_each_type_by_hand():
    truth = coco_of(
        dataset_of(
            [[(0, (0, 0, 20, 20)), (0, (40, 0, 20, 20)), (1, (80, 0, 20, 20)), (1, (0, 60, 20, 20))], []]
        )
    )
    results = [
        detection(0, 0, (0, 0, 20, 20), 0.95),  # correct
        detection(0, 0, (0, 1, 20, 20), 0.90),  # doubles it
        detection(0, 0, (50, 0, 20, 20), 0.85),  # IoU 1/3 with the second
        detection(0, 0, (80, 0, 20, 20), 0.80),  # on a dog
        detection(0, 0, (90, 0, 20, 20), 0.75),  # IoU 1/3 with a dog
        detection(0, 0, (100, 80, 20, 20), 0.70),  # on nothing
        detection(1, 1, (0, 0, 20, 20), 0.65),  # on nothing, in an image of nothing
    ]
    matches = match(truth, results, "bbox")
    errors = error_types(matches)
    names = [ERROR_NAMES[label] if label >= 0 else "correct" for label in errors.label]
    assert names == [
        "correct",
        "duplicate",
        "localisation",
        "classification",
        "both",
        "background",
        "background",
    ]
    assert errors.partner.tolist() == [-1, 0, 1, 2, -1, -1, -1]
    # The second and the third are what a localisation and a classification error are about.
    assert errors.missed.tolist() == [False, False, False, True]
    assert dict(zip(ERROR_NAMES, errors.counts)) == {
        **dict.fromkeys(("classification", "localisation", "both", "duplicate", "missed"), 1),
        "background": 2,
    }
    # Cats: one of two found, first of six: precision 1 up to recall 0.5. Dogs: none of two.
    half = 100 * 51 / 101
    assert errors.ap == pytest.approx(half / 2)
    # Localisation corrected, 2 of the first 3 are right: recall 1 at precision 2/3.
    localisation = (half + 100 * 50 / 101 * 2 / 3 - half) / 2
    # The dog is found, by the first of two detections of dogs.
    classification = half / 2
    # A dog less to find, and still none found.
    expected = [classification, localisation, 0, 0, 0, 0]
    assert errors.cost == pytest.approx(expected)
    assert errors.class_cost[1] == pytest.approx([localisation * 2, 0, np.nan], nan_ok=True)
    # All wrong ones ranked last change nothing; with all that is found being all there is, cats are perfect.
    assert errors.false_positive_cost == pytest.approx(0)
    assert errors.false_negative_cost == pytest.approx((100 - half) / 2)


def test_average_precision_by_hand():
    # Right, wrong, right of 2: precision 1 up to recall 0.5, then 2/3.
    ap = average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    assert ap == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert average_precision(np.array([0.9]), np.array([False]), 0) == 0
    assert average_precision(np.array([]), np.array([], bool), 3) == 0


def test_without_detections_everything_is_missed():
    errors = error_types(match(coco_of(dataset_of([[(0, (0, 0, 20, 20))]])), [], "bbox"))
    assert errors.ap == 0
    assert errors.counts == [0, 0, 0, 0, 0, 1]
    assert errors.missed.tolist() == [True]


#: (AP50, cost of the six types, of false positives, of false negatives) by tidecv 1.0.1, and its counts of
#: errors, for the cases of `tidecv_case`.
TIDECV = {
    ("bbox", 0): ([29.176, 4.335, 25.565, 1.26, 0.679, 3.772, 11.645, 24.784, 24.385], [4, 21, 3, 4, 15, 18]),
    ("bbox", 1): ([20.082, 3.186, 28.322, 2.335, 0.606, 2.148, 9.102, 19.027, 30.092], [3, 24, 5, 5, 22, 22]),
    ("bbox", 2): ([23.264, 1.866, 20.676, 0.047, 0.629, 9.087, 11.24, 23.765, 26.113], [2, 19, 3, 5, 39, 22]),
    ("segm", 0): ([27.629, 4.19, 27.112, 1.433, 0.56, 3.594, 10.607, 25.341, 24.296], [4, 22, 3, 4, 15, 18]),
    ("segm", 1): ([21.164, 3.213, 25.863, 2.368, 0.654, 2.281, 10.065, 19.43, 29.636], [3, 23, 5, 5, 22, 23]),
    ("segm", 2): ([21.818, 1.855, 22.123, 0.047, 0.618, 7.818, 10.541, 23.727, 25.78], [2, 20, 3, 5, 39, 22]),
}


def tidecv_case(seed: int, crowds: bool) -> tuple[dict, list[dict]]:
    """A case in which two programs that are right must agree to the digit.

    No detections of the class that has no annotation, for which tidecv counts an AP of 0; no two of one
    score, whose order is open; numbers of annotations that are prime, so that no recall lies on one that AP
    samples, where rounding decides.
    """
    dataset, results = random_case(seed, images=28 if crowds else 20, crowds=crowds)
    kept = []
    for which, prime in ((10, 37), (20, 31)):
        mine = [a for a in dataset["annotations"] if a["category_id"] == which]
        real = [a for a in mine if not a["iscrowd"]]
        kept += real[:prime] + [a for a in mine if a["iscrowd"]]
        assert len(real) >= prime
    dataset["annotations"] = kept
    results = [result for result in results if result["category_id"] != 30]
    return dataset, [result | {"score": result["score"] + 1e-5 * i} for i, result in enumerate(results)]


def numbers_of(errors) -> list[float]:
    return [errors.ap, *errors.cost, errors.false_positive_cost, errors.false_negative_cost]


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_what_tidecv_gave(task, seed):
    dataset, results = tidecv_case(seed, crowds=False)
    errors = error_types(match(coco_of(dataset), results, task))
    numbers, counts = TIDECV[task, seed]
    assert numbers_of(errors) == pytest.approx(numbers, abs=0.1)
    assert errors.counts == counts


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("crowds", [False, True])
def test_equal_to_tidecv(task, crowds, tmp_path):
    pytest.importorskip("tidecv")
    dataset, results = tidecv_case(3 if crowds else 1, crowds)
    errors = error_types(match(coco_of(dataset), results, task))
    numbers, counts = by_tidecv(dataset, results, task, tmp_path)
    assert numbers_of(errors) == pytest.approx(numbers, abs=0.1)
    # It counts detections on crowds as errors, too.
    assert crowds or errors.counts == counts


def by_tidecv(dataset: dict, results: list[dict], task: str, folder) -> tuple[list[float], list[int]]:
    from tidecv import TIDE, datasets

    (folder / "truth.json").write_text(json.dumps(dataset))
    (folder / "results.json").write_text(json.dumps(results))
    mode = {"bbox": TIDE.BOX, "segm": TIDE.MASK}[task]
    with contextlib.redirect_stdout(None):
        truth = datasets.COCO(str(folder / "truth.json"))
        run = TIDE().evaluate(truth, datasets.COCOResult(str(folder / "results.json")), mode=mode)
    costs = {
        kind.short_name: float(cost)
        for kind, cost in (run.fix_main_errors() | run.fix_special_errors()).items()
    }
    names = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    counts = {kind.short_name: number for kind, number in run.count_errors().items()}
    special = [costs["FalsePos"], costs["FalseNeg"]]
    return [float(run.ap), *(costs[name] for name in names), *special], [counts[name] for name in names]
