"""An exported model as a function of a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from .description import ModelDescription
from .detections import Detections


class ExportedModel(ABC):
    """Finds objects in pictures, by a graph of some format.

    Attributes:
        description: what the file says about itself.
    """

    def __init__(self, description: ModelDescription) -> None:
        self.description = description

    @abstractmethod
    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The graph itself: uint8 (H, W, 3), as `prepare` returns it, to its outputs by name."""

    def __call__(self, image: np.ndarray) -> Detections:
        """
        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            The detections of at least the file's score threshold, in pixels of `image`.
        """
        prepared, scale_x, scale_y = self.prepare(image)
        return Detections(**self.run(prepared)).scaled(1 / scale_x, 1 / scale_y, *image.shape[:2])

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, float, float]:
        """What the graph takes of a picture.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            uint8 (H', W', 3) in the graph's colour order, and its pixels per pixel of `image` along x and y.

        Raises:
            ValueError: not such an array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
        about = self.description
        height, width = image.shape[:2]
        if about.color_order == "BGR":
            image = image[:, :, ::-1]
        size = self._size(height, width)
        if size != (height, width):
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        if about.image_size is not None:
            padded = np.empty((*about.image_size, 3), dtype=np.uint8)
            padded[:] = np.round(about.pixel_mean)
            padded[: size[0], : size[1]] = image
            image = padded
        # A copy of its own: Pillow's pixels cannot be written to, of which torch warns.
        return np.array(image, order="C"), size[1] / width, size[0] / height

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture is resized to before the graph."""
        about = self.description
        if about.image_size is not None:
            scale = min(about.image_size[0] / height, about.image_size[1] / width)
            return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        if about.resizes or about.min_size is None or about.max_size is None:
            return height, width
        # Rounded step by step as Detectron2's ResizeShortestEdge rounds.
        scale = about.min_size / min(height, width)
        least = float(about.min_size)
        sides = (least, scale * width) if height < width else (scale * height, least)
        if max(sides) > about.max_size:
            shrink = about.max_size / max(sides)
            sides = (sides[0] * shrink, sides[1] * shrink)
        return int(sides[0] + 0.5), int(sides[1] + 0.5)
