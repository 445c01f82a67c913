"""The pictures with most errors: annotations beside detections, as shapes (SVG) over small JPEGs."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mrcnn_plugin.evaluation.analysis.error_types import BOTH, DUPLICATE, ERROR_NAMES, MISSED, ErrorTypes
from mrcnn_plugin.evaluation.analysis.matching import Matches, rle_of
from mrcnn_plugin.evaluation.analysis.operating_point import above

logger = logging.getLogger(__name__)

CORRECT = "correct"
# A picture's longer side in the report, in pixels.
_SIDE = 520
_JPEG_QUALITY = 78
# Of the outline of a mask, in pixels of the report.
_TOLERANCE = 0.6
# What a picture may take, shapes included; one of more is left out, unless it is the first.
_MAX_BYTES = 600_000


@dataclass
class Shape:
    """An annotation or a detection, in pixels of the report.

    Attributes:
        kind: "correct", or one of ERROR_NAMES; of an annotation "correct" if it was found, or "missed".
        name: its class, and the score of a detection.
        label: what to say about it.
        box: x, y, width, height; None where it has none.
        path: SVG path of its mask; "" for none.
        points: (x, y) of its keypoints, those that are labelled or predicted.
        limbs: (x1, y1, x2, y2) of the lines between them.
    """

    kind: str
    name: str
    label: str
    box: tuple[float, float, float, float] | None
    path: str = ""
    points: list[tuple[float, float]] = field(default_factory=list)
    limbs: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def anchor(self) -> tuple[float, float] | None:
        """Where its name is written: at the upper left corner of its box."""
        return (max(self.box[0], 1.0), max(self.box[1] - 3, 10.0)) if self.box else None


@dataclass
class Picture:
    """A picture with errors.

    Attributes:
        name: its file.
        width, height: of the JPEG.
        jpeg: its base64.
        errors: type -> number, those that there are.
        truths, detections: what is drawn on the left and on the right.
    """

    name: str
    width: int
    height: int
    jpeg: str
    errors: Mapping[str, int]
    truths: list[Shape]
    detections: list[Shape]

    @property
    def size(self) -> int:
        """About how many bytes it takes in the page."""
        shapes = [*self.truths, *self.detections]
        return len(self.jpeg) + sum(200 + len(shape.path) + 120 * len(shape.points) for shape in shapes)


def worst_pictures(
    ground_truth: COCO,
    results: Sequence[dict],
    image_root: str,
    matches: Matches,
    errors: ErrorTypes,
    thresholds: np.ndarray,
    class_names: Sequence[str],
    *,
    limit: int = 12,
    max_bytes: int = 2_500_000,
) -> list[Picture]:
    """The pictures with most wrong detections and missed annotations at the classes' thresholds.

    Args:
        ground_truth, results: what the matches are of.
        image_root: folder that the images' file names are relative to. A picture that is not there, or cannot
            be read, is left out with a line in the log.
        thresholds: (num_classes,) scores from which on detections count.
        class_names: (num_classes,).
        limit: pictures at most.
        max_bytes: that they may take together in the page.
    """
    kept = above(matches, thresholds) & ~matches.ignored
    found = np.zeros(len(matches.truth_class), bool)
    found[matches.truth[kept & matches.correct]] = True
    missed = ~found & ~matches.truth_ignored
    wrong = kept & ~matches.correct
    number = np.bincount(matches.det_image[wrong], minlength=len(matches.image_ids))
    number += np.bincount(matches.truth_image[missed], minlength=len(matches.image_ids))
    pictures: list[Picture] = []
    for image in np.argsort(-number, kind="stable"):
        if len(pictures) == limit or max_bytes <= 0 or not number[image]:
            break
        info = ground_truth.imgs[matches.image_ids[image]]
        jpeg = _jpeg(os.path.join(image_root, info["file_name"]))
        if jpeg is None:
            continue
        drawing = _Drawing(ground_truth, results, matches, errors, class_names, info, jpeg[1:])
        dets = np.flatnonzero(kept & (matches.det_image == image))
        truths = np.flatnonzero((matches.truth_image == image) & ~matches.truth_ignored)
        counts = np.bincount(errors.label[dets[wrong[dets]]], minlength=MISSED + 1)
        counts[MISSED] = missed[truths].sum()
        picture = Picture(
            name=info["file_name"],
            width=jpeg[1],
            height=jpeg[2],
            jpeg=jpeg[0],
            errors={name: int(count) for name, count in zip(ERROR_NAMES, counts) if count},
            truths=[drawing.truth(index, missed[index]) for index in truths.tolist()],
            # The most certain on top.
            detections=[drawing.detection(index) for index in dets[::-1].tolist()],
        )
        if not pictures or picture.size <= min(_MAX_BYTES, max_bytes):
            max_bytes -= picture.size
            pictures.append(picture)
    return pictures


def _jpeg(path: str) -> tuple[str, int, int] | None:
    """Base64 of a small JPEG of an image file, upright, and its width and height."""
    try:
        with Image.open(path) as image:
            small = ImageOps.exif_transpose(image)
            if small.mode.startswith(("I", "F")):
                # More than 8 bits: from the darkest value to the brightest.
                values = np.asarray(small, float)
                small = Image.fromarray(
                    (255 * (values - values.min()) / max(np.ptp(values), 1e-9)).astype(np.uint8)
                )
            small = small.convert("RGB")
            scale = _SIDE / max(small.size)
            width, height = (max(1, round(scale * side)) for side in small.size)
            small = small.resize(
                (width, height), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
            )
    except (OSError, ValueError) as error:
        logger.warning(f"Report: no picture of {path} ({error})")
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii"), *small.size


class _Drawing:
    """Makes the shapes of one image."""

    def __init__(
        self,
        ground_truth: COCO,
        results: Sequence[dict],
        matches: Matches,
        errors: ErrorTypes,
        class_names: Sequence[str],
        info: dict,
        size: tuple[int, int],
    ) -> None:
        self.annotations, self.results = ground_truth.dataset["annotations"], results
        self.matches, self.errors, self.class_names = matches, errors, class_names
        self.skeletons = {i: category.get("skeleton") or () for i, category in ground_truth.cats.items()}
        self.width, self.height = info["width"], info["height"]
        self.scale = np.array([size[0] / info["width"], size[1] / info["height"]])

    def truth(self, index: int, missed: bool) -> Shape:
        annotation = self.annotations[self.matches.annotation[index]]
        name = self.class_names[self.matches.truth_class[index]]
        return self._shape(annotation, ERROR_NAMES[MISSED] if missed else CORRECT, name, name)

    def detection(self, index: int) -> Shape:
        result = self.results[self.matches.result[index]]
        name = f"{self.class_names[self.matches.det_class[index]]} {self.matches.score[index]:.2f}"
        if self.matches.correct[index]:
            return self._shape(result, CORRECT, name, name)
        kind = int(self.errors.label[index])
        reason = self._reason(kind, int(self.errors.partner[index]))
        return self._shape(result, ERROR_NAMES[kind], name, f"{name}, {reason}")

    def _reason(self, kind: int, partner: int) -> str:
        if kind == BOTH:
            return "wrong class and position"
        if kind == DUPLICATE:
            return "duplicate"
        text = f"{ERROR_NAMES[kind]} error" if partner >= 0 else ERROR_NAMES[kind]
        other = self.class_names[self.matches.truth_class[partner]] if partner >= 0 else ""
        return f"{text} ({other} here)" if ERROR_NAMES[kind] == "classification" else text

    def _shape(self, entry: dict, kind: str, name: str, label: str) -> Shape:
        box = None
        if entry.get("bbox"):
            x, y, w, h = (np.array(entry["bbox"], float).reshape(2, 2) * self.scale).ravel().tolist()
            box = round(x, 1), round(y, 1), round(w, 1), round(h, 1)
        keypoints = np.array(entry.get("keypoints") or [], float).reshape(-1, 3)
        places = np.round(keypoints[:, :2] * self.scale, 1).tolist()
        seen = keypoints[:, 2] > 0
        ends = [(i - 1, j - 1) for i, j in self.skeletons.get(entry["category_id"], ())]
        return Shape(
            kind,
            name,
            label,
            box,
            self._path(entry["segmentation"]) if entry.get("segmentation") else "",
            [(x, y) for (x, y), there in zip(places, seen) if there],
            [(*places[i], *places[j]) for i, j in ends if max(i, j) < len(seen) and seen[i] and seen[j]],
        )

    def _path(self, segmentation: list | dict) -> str:
        """Outlines of a mask in pixels of the report, decoded within its box only."""
        rle = rle_of(segmentation, self.height, self.width)
        x, y, w, h = (int(value) for value in mask_util.toBbox(rle))
        if not w or not h:
            return ""
        part = mask_util.decode(rle)[y : y + h, x : x + w]
        # Pixels are squares: enlarged, the outline runs along their sides, not through their centres.
        part = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        zoom = max(1, int(np.ceil(2 * self.scale.max())))
        part = cv2.resize(part, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        pieces = []
        for outline in outlines:
            corners = (outline[:, 0].astype(np.float32) + 0.5) / zoom - 1 + (x, y)
            corners = cv2.approxPolyDP((corners * self.scale).astype(np.float32), _TOLERANCE, True)[:, 0]
            if len(corners) > 2:
                pieces.append("M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in corners) + "Z")
        return "".join(pieces)
