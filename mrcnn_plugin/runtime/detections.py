"""What an exported model finds in a picture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """K detections, best first, in pixels of the picture.

    Attributes:
        boxes: (K, 4) float32 xyxy.
        scores: (K,) float32.
        classes: (K,) int64, contiguous from 0.
        masks: (K, M, M) float32 probabilities within the boxes, or bool (K, H, W); None without masks.
        mask_scores: (K,) float32 by which masks are ranked; None where the model has none.
        keypoints: (K, num_keypoints, 3) float32 x, y, score; None without keypoints.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def fields(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if value is not None}

    def select(self, index: np.ndarray) -> Detections:
        """Those of an index, or of a bool array (K,)."""
        return Detections(**{name: value[index] for name, value in self.fields().items()})

    def scaled(self, x: float, y: float, height: int, width: int) -> Detections:
        """In pixels that are `x` and `y` times as many, within a picture of height x width; none empty."""
        boxes = self.boxes * np.array([x, y, x, y], dtype=np.float32)
        boxes = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
        changed = {"boxes": boxes}
        if self.keypoints is not None:
            changed["keypoints"] = self.keypoints * np.array([x, y, 1], dtype=np.float32)
        nonempty = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        return dataclasses.replace(self, **changed).select(nonempty)
