"""albumentations as a piece of a mapper's augmentations: boxes, masks and keypoints follow the image."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from mrcnn_plugin.errors import ConfigError

# These resize, and scale a point's distance from the image's corner as Detectron2 does. The other classes'
# points are pixel indices, that is, a pixel's centre is at 0 and not at 0.5.
_FROM_CORNER = {
    "RandomScale",
    "MaxSizeTransform",
    "Resize",
    "_BaseRandomSizedCrop",
    "RandomSizedBBoxSafeCrop",
}
# These choose by boxes or masks, which the mapper's augmentations do not see.
_CHOOSING = {
    "BBoxSafeRandomCrop",
    "AtLeastOneBBoxRandomCrop",
    "RandomCropNearBBox",
    "CropNonEmptyMaskIfExists",
    "MaskDropout",
    "ConstrainedCoarseDropout",
}
# Pixels go where no point of an outline would follow.
_TEARING = {"RandomGridShuffle", "Morphological", "Mosaic", "OverlayElements"}


class Albumentations(T.Augmentation):
    """Applies transforms of albumentations 2 to what a `DatasetMapper` augments.

    A geometric transform moves masks as albumentations moves masks, and polygons and keypoints point by
    point; a box becomes the box of its moved corners, as by Detectron2's own transforms (with the mapper's
    `recompute_boxes` that of the moved mask). A transform that mirrors exchanges left and right keypoints.
    The random numbers follow NumPy's generator, so that a resumed run draws the same.
    """

    def __init__(self, transforms: Sequence[Any], image_format: str = "BGR") -> None:
        """
        Args:
            transforms: of albumentations, applied in order; compositions such as OneOf as well.
            image_format: the mapper's; "BGR" images are handed on as the RGB that albumentations expects.

        Raises:
            ConfigError: albumentations is missing, or a transform cannot be followed by annotations.
        """
        if importlib.util.find_spec("albumentations") is None:
            raise ConfigError("the Albumentations augmentation needs: pip install 'albumentations>=2'")
        # Its import would ask a server for a newer version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations

        super().__init__()
        self.transforms = list(transforms)
        self.image_format = image_format
        self._compose = albumentations.Compose(self.transforms)
        self._compose.set_deterministic(True, save_key="replay")
        self._leaves = list(_leaves(self._compose))
        for leaf in self._leaves:
            _check(leaf)

    def get_transform(self, image: np.ndarray) -> Transform:
        self._compose.set_random_seed(int(np.random.randint(2**31)))
        flip = self.image_format == "BGR" and image.ndim == 3
        given = np.ascontiguousarray(image[:, :, ::-1] if flip else image)
        # Filled in the order of application.
        applied: dict[int, dict[str, Any]] = {}
        result = self._compose(image=given, replay=applied)["image"]
        by_id = {id(leaf): leaf for leaf in self._leaves}
        steps = [(by_id[leaf], params) for leaf, params in applied.items()]
        result = np.ascontiguousarray(result[:, :, ::-1] if flip else result)
        transform = _Applied(image, result, steps)
        return _MirroringApplied(image, result, steps) if transform.mirrors() else transform

    def __repr__(self) -> str:
        return f"Albumentations({self.transforms})"

    __str__ = __repr__


def _leaves(compose: Any) -> Iterator[Any]:
    for transform in compose.transforms:
        yield from _leaves(transform) if hasattr(transform, "transforms") else [transform]


def _names(leaf: Any) -> set[str]:
    return {kind.__name__ for kind in type(leaf).__mro__}


def _check(leaf: Any) -> None:
    name = type(leaf).__name__
    if _names(leaf) & _TEARING:
        raise ConfigError(f"Albumentations: outlines and keypoints cannot follow {name}; leave it out")
    if _names(leaf) & _CHOOSING:
        raise ConfigError(
            f"Albumentations: {name} chooses by boxes or masks, which a mapper's augmentations do not see; "
            "take one that needs the image alone"
        )


class _Applied(Transform):
    """What albumentations did to one image, for its annotations."""

    def __init__(self, image: np.ndarray, result: np.ndarray, steps: Iterable[tuple[Any, dict]]) -> None:
        self._image = image
        self._result = result
        # Those that change nothing but colours have no method for points.
        self._steps = [(leaf, params) for leaf, params in steps if hasattr(leaf, "apply_to_keypoints")]

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if img is not self._image:
            raise ValueError("these parameters were drawn for another image")
        return self._result

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        mask = np.ascontiguousarray(segmentation)
        for leaf, params in self._steps:
            mask = np.ascontiguousarray(leaf.apply_to_mask(mask, **params))
        return mask

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        points = np.array(coords, dtype=np.float64)
        for leaf, params in self._steps if len(points) else ():
            offset = 0.0 if _names(leaf) & _FROM_CORNER else 0.5
            # x, y, z, angle, scale
            rows = np.zeros((len(points), 5), dtype=np.float32)
            rows[:, :2] = points - offset
            moved = leaf.apply_to_keypoints(rows, **params)
            if len(moved) != len(points):
                raise ValueError(f"{type(leaf).__name__} loses points; leave it out of the augmentations")
            points = np.asarray(moved[:, :2], dtype=np.float64) + offset
        return points

    def mirrors(self) -> bool:
        """Whether left and right change places, told by the turn of a corner in the image's middle."""
        height, width = self._image.shape[:2]
        x, y = width / 2, height / 2
        corner = np.array([[x, y], [x + width / 4, y], [x, y + height / 4]])
        middle, right, down = self.apply_coords(corner)
        (a, b), (c, d) = right - middle, down - middle
        return a * d - b * c < 0


class _MirroringApplied(_Applied, T.HFlipTransform):
    """Of this class, since Detectron2's mapper exchanges keypoints for an HFlipTransform."""
