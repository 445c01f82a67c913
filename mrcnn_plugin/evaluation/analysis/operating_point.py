"""What a detector does at a score threshold: the best one, what is confused there, what scores tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matching import Matches

#: Score threshold of a class of which no detection is correct, so that none is best.
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class BestThresholds:
    """For each class the score threshold at which F1 is highest, and what holds there.

    Attributes:
        threshold: (num_classes,) float; detections of at least this score are kept. NaN where no detection of
            the class is correct.
        f1, precision, recall: (num_classes,) float in [0, 1]; 0 where no detection is correct, NaN where the
            class has no annotation.
    """

    threshold: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """How often detections of some score are correct, in bins of equal width.

    Attributes:
        edges: (B + 1,) from 0 to 1.
        count: (B,) int, detections in each bin.
        confidence, precision: (B,) float in [0, 1], mean score and part that is correct; NaN in an empty bin.
        error: expected calibration error in [0, 1]: the mean of |precision - confidence|, weighted by
            count; NaN without detections.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray
    error: float


def best_thresholds(matches: Matches) -> BestThresholds:
    """The score thresholds that maximise each class's F1 = 2 P R / (P + R) at the IoU of the matches.

    Of several thresholds with that F1 it is the highest. It lies at the score of a detection.
    """
    truths = matches.truths_per_class
    kept = np.flatnonzero(~matches.ignored)
    result = BestThresholds(*(np.full(matches.num_classes, np.nan) for _ in range(4)))
    for index in np.flatnonzero(truths):
        mine = kept[matches.det_class[kept] == index]
        mine = mine[np.argsort(-matches.score[mine], kind="stable")]
        hits = np.cumsum(matches.correct[mine])
        result.f1[index] = result.precision[index] = result.recall[index] = 0.0
        if not len(hits) or not hits[-1]:
            continue
        score, number = matches.score[mine], np.arange(1, len(mine) + 1)
        f1 = 2 * hits / (number + truths[index])
        # A threshold keeps all detections of one score, or none.
        f1[:-1][score[:-1] == score[1:]] = -1
        best = int(f1.argmax())
        result.threshold[index] = score[best]
        result.f1[index] = f1[best]
        result.precision[index] = hits[best] / number[best]
        result.recall[index] = hits[best] / truths[index]
    return result


def f1_curve(matches: Matches, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) thresholds -> precision, recall and F1, (N,) each, of all classes together with one threshold."""
    kept = ~matches.ignored
    scores = np.sort(matches.score[kept])
    hits = np.sort(matches.score[matches.correct])
    number = len(scores) - np.searchsorted(scores, thresholds)
    correct = len(hits) - np.searchsorted(hits, thresholds)
    total = int(matches.truths_per_class.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = correct / number
        recall = correct / total if total else np.full(len(thresholds), np.nan)
        f1 = 2 * correct / (number + total)
    return precision, recall, f1


def calibration(matches: Matches, bins: int = 10) -> Calibration:
    """The reliability of scores: Guo et al. (arXiv 1706.04599), Section 2.

    For detections it compares them with the part that is correct (Kueppers et al., arXiv 2004.13546).
    """
    kept = ~matches.ignored
    score, correct = matches.score[kept], matches.correct[kept]
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip((score * bins).astype(int), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.bincount(index, score, minlength=bins) / count
        precision = np.bincount(index, correct, minlength=bins) / count
    filled = count > 0
    gaps = np.abs(precision - confidence)[filled]
    error = float(np.average(gaps, weights=count[filled])) if filled.any() else np.nan
    return Calibration(edges, count, confidence, precision, error)


def above(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """(D,) bool: detections of at least their class's threshold, DEFAULT_THRESHOLD where that is NaN."""
    return matches.score >= np.nan_to_num(thresholds, nan=DEFAULT_THRESHOLD)[matches.det_class]


def confusion(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """What annotations are taken for at the classes' thresholds.

    Correct detections are those of the matches. In the order of falling score each other detection takes the
    annotation that it overlaps most among those of any class that are still free, if the IoU is at least that
    of the matches; if there is none it was background. Annotations that are left were taken for background.

    Args:
        thresholds: (num_classes,) as of `best_thresholds`.

    Returns:
        (num_classes + 1, num_classes + 1) int: rows are classes of annotations, columns of detections, the
        last of each is background. Ignored detections and annotations are left out.
    """
    classes = matches.num_classes
    table = np.zeros((classes + 1, classes + 1), int)
    kept = above(matches, thresholds) & ~matches.ignored
    for dets, truths, ious in matches.images():
        truth_class = matches.truth_class[truths]
        free = ~matches.truth_ignored[truths]
        mine = kept[dets]
        right = mine & matches.correct[dets]
        free[matches.truth[dets][right] - truths.start] = False
        det_class = matches.det_class[dets]
        np.add.at(table, (det_class[right], det_class[right]), 1)
        for det in np.flatnonzero(mine & ~right):
            row = np.where(free, ious[det], 0.0)
            best = int(row.argmax()) if len(row) else -1
            actual = classes
            if best >= 0 and row[best] >= matches.iou:
                free[best] = False
                actual = truth_class[best]
            table[actual, det_class[det]] += 1
        np.add.at(table, (truth_class[free], classes), 1)
    return table
