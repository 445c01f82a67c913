"""Detections of a COCO results file matched to ground truth at one IoU, the way that COCO's AP matches them.

In shapes, D is the number of detections of all images, T that of annotations, D_i and T_i those of image i.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

#: The key of a result dict that a task compares.
RESULT_KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
#: IoU (for keypoints OKS) from which on a detection counts as correct: that of AP50.
MATCH_IOU = 0.5
#: COCO's OKS sigmas of its 17 keypoints.
COCO_SIGMAS = tuple(Params("keypoints").kpt_oks_sigmas.tolist())


@dataclass(frozen=True)
class Matches:
    """What became of each detection and each annotation of a data set at one IoU.

    Detections are ordered by image and then by falling score, annotations by image.

    Attributes:
        task: "bbox", "segm" or "keypoints".
        iou: from which on a detection matches.
        category_ids: COCO's ids; a class is an index into them.
        image_ids: COCO's ids; an image is an index into them.
        result: (D,) int, index into the list of results.
        score: (D,) float.
        det_class, det_image: (D,) int.
        truth: (D,) int, the annotation that a detection matched, -1 for none.
        ignored: (D,) bool, whether it lies on a crowd or another ignored annotation: not right, not wrong.
        annotation: (T,) int, index into the data set's annotations.
        truth_class, truth_image: (T,) int.
        truth_ignored: (T,) bool, whether AP leaves the annotation out.
        ious: of each image, (D_i, T_i) float, whatever the classes.
    """

    task: str
    iou: float
    category_ids: list[int]
    image_ids: list[int]
    result: np.ndarray
    score: np.ndarray
    det_class: np.ndarray
    det_image: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray
    annotation: np.ndarray
    truth_class: np.ndarray
    truth_image: np.ndarray
    truth_ignored: np.ndarray
    ious: list[np.ndarray]

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    @property
    def correct(self) -> np.ndarray:
        """(D,) bool: true positives."""
        return self.truth >= 0

    @property
    def truths_per_class(self) -> np.ndarray:
        """(num_classes,) int: annotations that AP counts."""
        return np.bincount(self.truth_class[~self.truth_ignored], minlength=self.num_classes)

    @property
    def found(self) -> np.ndarray:
        """(T,) bool: annotations that a detection matched."""
        found = np.zeros(len(self.truth_class), bool)
        found[self.truth[self.correct]] = True
        return found

    def images(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Of each image: its detections, its annotations, and their IoUs (D_i, T_i)."""
        images = np.arange(len(self.image_ids) + 1)
        dets = np.searchsorted(self.det_image, images)
        truths = np.searchsorted(self.truth_image, images)
        for i, ious in enumerate(self.ious):
            yield slice(dets[i], dets[i + 1]), slice(truths[i], truths[i + 1]), ious


def match(
    ground_truth: COCO,
    results: Sequence[dict],
    task: str,
    *,
    iou: float = MATCH_IOU,
    max_dets: int = 100,
    sigmas: Sequence[float] = (),
) -> Matches:
    """Matches detections to annotations.

    Within a class and an image, in the order of falling score, a detection takes the annotation that it
    overlaps most among those not yet taken, if the IoU is at least `iou`; one that takes none but lies on an
    ignored annotation is ignored.

    Args:
        ground_truth: pycocotools' COCO of the annotations.
        results: dicts as in COCO's results format; those without the task's key are left out. A mask's
            "mask_score" goes before "score".
        task: "bbox", "segm" or "keypoints".
        iou: in (0, 1]; for keypoints it is OKS.
        max_dets: detections of a class in an image that count, the highest scores first.
        sigmas: of OKS, one for each keypoint; COCO's 17 by default.
    """
    category_ids, image_ids = sorted(ground_truth.getCatIds()), sorted(ground_truth.getImgIds())
    class_of = {category: index for index, category in enumerate(category_ids)}
    dets_of, truths_of = defaultdict(list), defaultdict(list)
    for index, result in enumerate(results):
        # A detector of more classes than the data set has: COCO's AP does not see the others either.
        if result.get(RESULT_KEYS[task]) and result["category_id"] in class_of:
            dets_of[result["image_id"]].append(index)
    annotations = ground_truth.dataset["annotations"]
    for index, annotation in enumerate(annotations):
        truths_of[annotation["image_id"]].append(index)
    parts = []
    for image, image_id in enumerate(image_ids):
        dets = _strongest(results, dets_of[image_id], task, max_dets)
        truths = truths_of[image_id]
        parts.append(
            _match_image(
                ground_truth.imgs[image_id],
                image,
                [results[i] for i in dets],
                [annotations[i] for i in truths],
                class_of,
                task,
                iou,
                np.array(sigmas or COCO_SIGMAS),
            )
            | {"result": np.array(dets, int), "annotation": np.array(truths, int)}
        )
    offset = 0
    for part in parts:
        part["truth"] = np.where(part["truth"] >= 0, part["truth"] + offset, -1)
        offset += len(part["annotation"])
    names = [name for name in parts[0] if name != "ious"] if parts else []
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Matches(task, iou, category_ids, image_ids, ious=[part["ious"] for part in parts], **arrays)


def score_of(result: dict, task: str) -> float:
    """What a task ranks a result by."""
    return result.get("mask_score", result["score"]) if task == "segm" else result["score"]


def _strongest(results: Sequence[dict], indices: list[int], task: str, max_dets: int) -> list[int]:
    """Of one image, by falling score, at most `max_dets` of each class."""
    seen: defaultdict[int, int] = defaultdict(int)
    kept = []
    for index in sorted(indices, key=lambda i: -score_of(results[i], task)):
        category = results[index]["category_id"]
        seen[category] += 1
        if seen[category] <= max_dets:
            kept.append(index)
    return kept


def _match_image(
    image: dict,
    image_index: int,
    dets: list[dict],
    truths: list[dict],
    class_of: dict[int, int],
    task: str,
    iou: float,
    sigmas: np.ndarray,
) -> dict[str, np.ndarray]:
    det_class = np.array([class_of[det["category_id"]] for det in dets], int)
    truth_class = np.array([class_of[truth["category_id"]] for truth in truths], int)
    crowd = np.array([bool(truth.get("iscrowd")) for truth in truths], bool)
    ignored = crowd
    if task == "keypoints":
        ignored = crowd | np.array([not truth.get("num_keypoints") for truth in truths], bool)
    ious = overlaps(image, dets, truths, task, sigmas)
    same = det_class[:, None] == truth_class[None]
    matched, on_ignored = _assign(np.where(same, ious, 0.0), ignored, crowd, iou)
    return {
        "ious": ious,
        "score": np.array([score_of(det, task) for det in dets], float),
        "det_class": det_class,
        "det_image": np.full(len(dets), image_index),
        "truth": matched,
        "ignored": on_ignored,
        "truth_class": truth_class,
        "truth_image": np.full(len(truths), image_index),
        "truth_ignored": ignored,
    }


def _assign(
    ious: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """(D_i, T_i) IoUs, 0 between classes -> (D_i,) index of the match or -1, (D_i,) whether ignored."""
    matched = np.full(len(ious), -1)
    on_ignored = np.zeros(len(ious), bool)
    free = np.ones(ious.shape[1], bool)
    iou = min(iou, 1 - 1e-10)
    for det in np.flatnonzero((ious >= iou).any(axis=1)):
        for among in (~ignored, ignored):
            # A crowd takes any number of detections.
            row = np.where(among & (free | crowd), ious[det], 0.0)
            best = int(row.argmax())
            if row[best] >= iou:
                free[best] = False
                if ignored[best]:
                    on_ignored[det] = True
                else:
                    matched[det] = best
                break
    return matched, on_ignored


def overlaps(
    image: dict, dets: Sequence[dict], truths: Sequence[dict], task: str, sigmas: np.ndarray
) -> np.ndarray:
    """(D_i, T_i) IoU or OKS within an image; with a crowd, the part of a detection that lies on it."""
    if not dets or not truths:
        return np.zeros((len(dets), len(truths)))
    if task == "keypoints":
        return oks(dets, truths, sigmas)
    crowd = [int(bool(truth.get("iscrowd"))) for truth in truths]
    if task == "bbox":
        det_boxes, boxes = (np.array([x["bbox"] for x in part], float) for part in (dets, truths))
        return np.asarray(mask_util.iou(det_boxes, boxes, crowd))
    size = image["height"], image["width"]
    det_masks, masks = ([rle_of(x["segmentation"], *size) for x in part] for part in (dets, truths))
    return np.asarray(mask_util.iou(det_masks, masks, crowd))


def rle_of(segmentation: list | dict, height: int, width: int) -> dict:
    """COCO's compressed RLE of polygons, of an uncompressed RLE, or of itself."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def oks(dets: Sequence[dict], truths: Sequence[dict], sigmas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity as COCO computes it (https://cocodataset.org/#keypoints-eval).

    An annotation without a labelled keypoint is compared by how far the predicted ones lie outside its
    doubled box.

    Args:
        dets: D_i results with "keypoints", x, y and a score of each, in pixels.
        truths: T_i annotations with "keypoints", x, y and visibility of each, "area" and "bbox".
        sigmas: (K,) of the K keypoints.

    Returns:
        (D_i, T_i) float in [0, 1].
    """
    found = np.array([det["keypoints"] for det in dets], float).reshape(len(dets), -1, 3)[..., :2]
    columns = []
    for truth in truths:
        keypoints = np.array(truth.get("keypoints") or [0.0] * (3 * len(sigmas)), float).reshape(-1, 3)
        labelled = keypoints[:, 2] > 0
        if labelled.any():
            distance = found[:, labelled] - keypoints[labelled, :2]
        else:
            labelled = np.ones(len(sigmas), bool)
            x, y, w, h = truth["bbox"]
            low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
            distance = np.maximum(0, low - found) + np.maximum(0, found - high)
        variance = (2 * sigmas[labelled]) ** 2
        error = (distance**2).sum(-1) / variance / (truth["area"] + np.spacing(1)) / 2
        columns.append(np.exp(-error).mean(axis=1))
    return np.stack(columns, axis=1)
