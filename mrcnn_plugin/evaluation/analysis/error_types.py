"""Why detections are wrong, and the AP that each kind of error costs.

The definitions are those of TIDE (Bolya et al., arXiv 2008.08115): Section 2.2 for the six types, Section 2.3
for the oracles that correct one type each. What the paper leaves open follows its program tidecv 1.0.1, with
whose numbers the tests compare: which type wins where two fit, and which of several detections takes an
annotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matching import Matches

#: IoU up to which a detection lies on the background.
BACKGROUND_IOU = 0.1
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
ERROR_NAMES = ("classification", "localisation", "both", "duplicate", "background", "missed")
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ErrorTypes:
    """The errors of a `Matches`.

    Attributes:
        ap: the mean AP in percent at the IoU of the matches.
        label: (D,) int, index into ERROR_NAMES; -1 for correct detections.
        partner: (D,) int, the annotation that a classification or localisation error is about, that
            a duplicate doubles; else -1.
        missed: (T,) bool, annotations that are not found and that no other error is about.
        counts: of each type, less the detections that AP ignores.
        cost: of each type, the AP in percent that its oracle would add.
        class_cost: (6, num_classes) that, of single classes; NaN for classes without annotations.
        false_positive_cost, false_negative_cost: TIDE's special errors; what perfect precision and perfect
            recall would add.
    """

    ap: float
    label: np.ndarray
    partner: np.ndarray
    missed: np.ndarray
    counts: list[int]
    cost: list[float]
    class_cost: np.ndarray
    false_positive_cost: float
    false_negative_cost: float


def average_precision(score: np.ndarray, correct: np.ndarray, num_truths: int) -> float:
    """COCO's AP: the mean over 101 recalls of the best precision at that recall or a higher one.

    Args:
        score: (N,) float.
        correct: (N,) bool.
        num_truths: annotations to find.

    Returns:
        In percent; 0 where there is nothing to find.
    """
    if not num_truths or not len(score):
        return 0.0
    hits = np.cumsum(correct[np.argsort(-score, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(hits / num_truths, _RECALLS, side="left")
    return 100 * float(np.where(index < len(best), best[np.minimum(index, len(best) - 1)], 0.0).mean())


def error_types(matches: Matches) -> ErrorTypes:
    """Sorts every error into TIDE's types and corrects one type after the other, each alone.

    A type's cost may not be negative, as in tidecv. Classes without annotations are left out of the mean, as
    COCO does and tidecv does not.
    """
    label, partner = _labels(matches)
    found = matches.found
    claimed = np.isin(label, (CLASSIFICATION, LOCALISATION)) & (partner >= 0)
    claimed[claimed] = ~found[partner[claimed]]
    missed = ~found & ~matches.truth_ignored
    missed[partner[claimed]] = False
    corrected = _first_claims(matches.score, partner, claimed)
    kept = ~matches.ignored
    truths = matches.truths_per_class
    base = _class_aps(matches, kept, matches.correct, matches.det_class, matches.score, truths)

    deltas = []
    for kind in range(MISSED):
        mine = label == kind
        fixed = mine & corrected
        classes = matches.det_class.copy()
        if kind == CLASSIFICATION:
            classes[fixed] = matches.truth_class[partner[fixed]]
        aps = _class_aps(
            matches, (kept & ~mine) | fixed, matches.correct | fixed, classes, matches.score, truths
        )
        deltas.append(aps)
    fewer = truths - np.bincount(matches.truth_class[missed], minlength=matches.num_classes)
    deltas.append(_class_aps(matches, kept, matches.correct, matches.det_class, matches.score, fewer))
    precise = _class_aps(matches, kept, matches.correct, matches.det_class, matches.correct + 0.0, truths)
    hits = np.bincount(matches.det_class[matches.correct], minlength=matches.num_classes)
    complete = _class_aps(matches, kept, matches.correct, matches.det_class, matches.score, hits)

    counted = label[kept & (label >= 0)]
    ap = _mean(base)
    return ErrorTypes(
        ap=ap,
        label=label,
        partner=partner,
        missed=missed,
        counts=[*np.bincount(counted, minlength=MISSED).tolist(), int(missed.sum())],
        cost=[max(_mean(aps) - ap, 0.0) for aps in deltas],
        class_cost=np.where(truths > 0, np.stack(deltas) - base, np.nan),
        false_positive_cost=_mean(precise) - ap,
        false_negative_cost=_mean(complete) - ap,
    )


def _labels(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """(D,) types and (D,) annotations that they are about."""
    label = np.full(len(matches.score), -1)
    partner = np.full(len(matches.score), -1)
    found = matches.found
    for dets, truths, ious in matches.images():
        wrong = ~matches.correct[dets]
        real = np.flatnonzero(~matches.truth_ignored[truths])
        if not wrong.any():
            continue
        if not len(real):
            label[dets][wrong] = BACKGROUND
            continue
        kinds, which = _image_labels(
            ious[wrong][:, real],
            matches.det_class[dets][wrong][:, None] == matches.truth_class[truths][real][None],
            found[truths][real],
            matches.iou,
        )
        # dets is a slice: indexing by it gives a view.
        label[dets][wrong] = kinds
        partner[dets][wrong] = np.where(which >= 0, truths.start + real[which], -1)
    return label, partner


def _image_labels(
    ious: np.ndarray, same: np.ndarray, found: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Types of wrong detections of an image, and the columns that they are about, by tidecv's precedence.

    Args:
        ious: (W, R) of wrong detections and annotations that AP counts.
        same: (W, R) bool, whether of the same class.
        found: (R,) bool.
        iou: from which on a detection matches.
    """
    rows = np.arange(len(ious))
    own, other, taken = ious * same, ious * ~same, ious * same * found
    best_own, best_other, best_taken = (part.argmax(axis=1) for part in (own, other, taken))
    own_iou = own[rows, best_own]
    rules = (
        (LOCALISATION, (own_iou >= BACKGROUND_IOU) & (own_iou <= iou), best_own),
        (CLASSIFICATION, other[rows, best_other] >= iou, best_other),
        (DUPLICATE, taken[rows, best_taken] >= iou, best_taken),
        (BACKGROUND, ious.max(axis=1) <= BACKGROUND_IOU, None),
        (BOTH, np.ones(len(ious), bool), None),
    )
    kinds, which = np.full(len(ious), -1), np.full(len(ious), -1)
    for kind, holds, columns in rules:
        chosen = holds & (kinds < 0)
        kinds[chosen] = kind
        if columns is not None:
            which[chosen] = columns[chosen]
    return kinds, which


def _first_claims(score: np.ndarray, partner: np.ndarray, claimed: np.ndarray) -> np.ndarray:
    """(D,) bool: of the detections that claim the same annotation, the one of the highest score."""
    result = np.zeros(len(score), bool)
    claims = np.flatnonzero(claimed)
    order = claims[np.argsort(-score[claims], kind="stable")]
    _, first = np.unique(partner[order], return_index=True)
    result[order[first]] = True
    return result


def _class_aps(
    matches: Matches,
    kept: np.ndarray,
    correct: np.ndarray,
    classes: np.ndarray,
    score: np.ndarray,
    truths: np.ndarray,
) -> np.ndarray:
    """(num_classes,) AP in percent; NaN for a class that has no annotation, or none left and no detection."""
    order = np.flatnonzero(kept)
    order = order[np.argsort(classes[order], kind="stable")]
    bounds = np.searchsorted(classes[order], np.arange(matches.num_classes + 1))
    aps = np.full(matches.num_classes, np.nan)
    for index in np.flatnonzero(matches.truths_per_class):
        mine = order[bounds[index] : bounds[index + 1]]
        if truths[index] or len(mine):
            aps[index] = average_precision(score[mine], correct[mine], truths[index])
    return aps


def _mean(aps: np.ndarray) -> float:
    known = aps[~np.isnan(aps)]
    return float(known.mean()) if len(known) else 0.0
