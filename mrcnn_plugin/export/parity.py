"""An exported model against the model that it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mrcnn_plugin.modeling import returning_masks_as
from mrcnn_plugin.ops import paste_masks
from mrcnn_plugin.runtime import Detections, ExportedModel, ModelDescription

from .resize import ShortestEdge, resize


@dataclass(frozen=True)
class Tolerance:
    """What an exported model may differ by.

    Attributes:
        score: absolute; also how near to the threshold a detection may be missing, and a pixel of a mask.
        box, keypoint: pixels of the picture.
        mask_iou: least IoU of two masks in the picture.
        least_score: detections below are not looked at.
    """

    score: float = 1e-3
    box: float = 0.05
    keypoint: float = 0.1
    mask_iou: float = 0.995
    least_score: float = 0.05


@dataclass
class Parity:
    """The largest differences over all pictures.

    Attributes:
        detections, matched: of the original model, and those of them that the exported one has.
        box, score, mask_score, keypoint: largest differences of matched detections.
        mask_iou: least IoU of their masks.
        first: which quantity of which picture is the first beyond the tolerance; "" where none is.
        picture: name of the picture that `first` is about.
    """

    detections: int = 0
    matched: int = 0
    box: float = 0.0
    score: float = 0.0
    mask_score: float = 0.0
    keypoint: float = 0.0
    mask_iou: float = 1.0
    first: str = ""
    picture: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        return [
            ("detections matched", f"{self.matched} of {self.detections}"),
            ("largest box difference (pixels)", f"{self.box:.2g}"),
            ("largest score difference", f"{self.score:.2g}"),
            ("least mask IoU", f"{self.mask_iou:.5f}"),
            ("largest keypoint difference (pixels)", f"{self.keypoint:.2g}"),
        ]


class OriginalModel(ExportedModel):
    """The model itself, under the interface of what is exported from it.

    What an exported graph resizes is resized by the same arithmetic here, which is Pillow's but for single
    grey levels; else by Pillow.
    """

    def __init__(self, model: nn.Module, description: ModelDescription) -> None:
        masks = description.masks and "probabilities"
        super().__init__(dataclasses.replace(description, resizes=False, masks=masks))
        self._model: Any = model
        self._in_graph = description.resizes

    @property
    def limit(self) -> int:
        """Most detections of a picture."""
        predictor: Any = self._model.roi_heads.box_predictor
        last: Any = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
        return last.test_topk_per_image

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, float, float]:
        if not self._in_graph:
            return super().prepare(image)
        about = self.description
        assert about.min_size is not None
        assert about.max_size is not None
        height, width = ShortestEdge(about.min_size, about.max_size).size(*image.shape[:2])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        resized = resize(pixels, height, width).permute(1, 2, 0).to(torch.uint8).numpy()
        if about.color_order == "BGR":
            resized = np.ascontiguousarray(resized[:, :, ::-1])
        return resized, width / image.shape[1], height / image.shape[0]

    @torch.no_grad()
    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        with returning_masks_as(self._model, "raw"):
            raw = self._model.inference([{"image": pixels}], do_postprocess=False)[0]
        outputs = {"boxes": raw.pred_boxes.tensor, "scores": raw.scores, "classes": raw.pred_classes}
        if raw.has("pred_masks"):
            outputs["masks"] = raw.pred_masks[:, 0]
        if raw.has("mask_scores"):
            outputs["mask_scores"] = raw.mask_scores
        if raw.has("pred_keypoints"):
            outputs["keypoints"] = raw.pred_keypoints
        return {name: value.numpy() for name, value in outputs.items()}


def compare(
    original: ExportedModel,
    exported: ExportedModel,
    pictures: Iterable[tuple[str, np.ndarray]],
    tolerance: Tolerance,
    *,
    limit: int | None = None,
) -> Parity:
    """Both models on the same pictures.

    Args:
        original, exported: the first is what the second should be.
        pictures: names and (H, W, 3) uint8 RGB.
        tolerance: decides what `first` names.
        limit: most detections of a picture that the model gives: of two that nearly tie at the end of
            so many, either may be missing.
    """
    parity = Parity()
    for name, image in pictures:
        reference, other = original(image), exported(image)
        least = max(tolerance.least_score, exported.description.score_threshold)
        if limit and len(reference) == len(other) == limit:
            least = max(least, float(reference.scores.min()), float(other.scores.min()))
        size, threshold = image.shape[:2], exported.description.mask_threshold
        for what in _differences(
            parity, reference, other, size, threshold, least + tolerance.score, tolerance
        ):
            if not parity.first:
                parity.first, parity.picture = f"{name}: {what}", name
    return parity


def _differences(
    parity: Parity,
    reference: Detections,
    other: Detections,
    size: tuple[int, int],
    mask_threshold: float,
    least: float,
    tolerance: Tolerance,
) -> Iterator[str]:
    """Adds one picture to `parity`; gives what is beyond the tolerance, in the order of the graph."""
    partner = _matches(reference, other)
    for index in np.flatnonzero(reference.scores > least):
        parity.detections += 1
        parity.matched += int(partner[index] >= 0)
        if partner[index] < 0:
            yield f"{_name(reference, index)} is missing"
    backward = _matches(other, reference)
    for index in np.flatnonzero((other.scores > least) & (backward < 0)):
        yield f"{_name(other, index)} is not one of the original model's"
    kept = np.flatnonzero((reference.scores > least) & (partner >= 0))
    reference, other = reference.select(kept), other.select(partner[kept])
    for what, field, limit in (
        ("boxes", "box", tolerance.box),
        ("scores", "score", tolerance.score),
        ("mask_scores", "mask_score", tolerance.score),
        ("keypoints", "keypoint", tolerance.keypoint),
    ):
        values = getattr(reference, what)
        if values is None or not len(kept):
            continue
        gaps = np.abs(values - getattr(other, what))
        # Of keypoints the place, not the score.
        gaps = (gaps[..., :2] if what == "keypoints" else gaps).reshape(len(kept), -1)
        setattr(parity, field, max(getattr(parity, field), float(gaps.max())))
        if gaps.max() > limit:
            worst = int(gaps.max(axis=1).argmax())
            yield f"{field} of {_name(reference, worst)} differs by {gaps.max():.3g}, more than {limit:g}"
    ious = _mask_ious(reference, other, size, mask_threshold, tolerance.score)
    if len(ious):
        parity.mask_iou = min(parity.mask_iou, float(ious.min()))
        if ious.min() < tolerance.mask_iou:
            worst = int(ious.argmin())
            limit = tolerance.mask_iou
            yield f"mask of {_name(reference, worst)} has IoU {ious.min():.4f}, less than {limit:g}"


def _name(detections: Detections, index: Any) -> str:
    box = ", ".join(f"{value:.1f}" for value in detections.boxes[index])
    return f"class {detections.classes[index]}, score {detections.scores[index]:.3f}, box ({box})"


def _matches(detections: Detections, others: Detections) -> np.ndarray:
    """Of each detection the index of the one of its class in `others` that overlaps it most; -1 below 0.9."""
    if not len(others):
        return np.full(len(detections), -1)
    a, b = detections.boxes[:, None], others.boxes[None]
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0)
    overlap = sides.prod(axis=2)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (a, b)]
    iou = overlap / (areas[0] + areas[1] - overlap)
    iou = np.where(detections.classes[:, None] == others.classes[None], iou, 0)
    return np.where(iou.max(axis=1) >= 0.9, iou.argmax(axis=1), -1)


def _mask_ious(
    a: Detections, b: Detections, size: tuple[int, int], threshold: float, slack: float
) -> np.ndarray:
    """Of each pair, in the picture; empty without masks. Pixels of `a` whose probability is within `slack` of
    the threshold may be in `b`'s mask or not: rounding decides, and of a small mask one is a large part."""
    if a.masks is None or b.masks is None:
        return np.zeros(0)
    first, second = (_pasted(one, size, threshold) for one in (a, b))
    if a.masks.dtype != np.bool_:
        near = _pasted(a, size, threshold - slack) & ~_pasted(a, size, threshold + slack)
        second = np.where(near, first, second)
    shared = (first & second).sum(axis=(1, 2))
    either = (first | second).sum(axis=(1, 2))
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)


def _pasted(detections: Detections, size: tuple[int, int], threshold: float) -> np.ndarray:
    """(K, H, W) bool."""
    masks = detections.masks
    if masks is None or masks.dtype == np.bool_:
        return np.asarray(masks)
    boxes = torch.from_numpy(np.ascontiguousarray(detections.boxes))
    return paste_masks(torch.from_numpy(np.ascontiguousarray(masks)), boxes, size, threshold).numpy()
