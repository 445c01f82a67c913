"""Small pictures whose instances are known, and what Detectron2's loader makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image

from mrcnn_plugin.data import check_datasets

ORIENTATION_TAG = 0x0112
# What PIL does to a stored picture of each EXIF orientation, undone: upright -> stored.
TO_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass
class Drawn:
    """A picture of height x width, and its instances: class name, polygon (P, 2) of integer x, y."""

    name: str
    width: int
    height: int
    instances: list[tuple[str, np.ndarray]]

    def masks(self) -> list[tuple[str, np.ndarray]]:
        """(class, (H, W) bool) of each instance: drawn by OpenCV at 16 times the size."""
        result = []
        for label, polygon in self.instances:
            large = np.zeros((16 * self.height, 16 * self.width), np.uint8)
            cv2.fillPoly(large, [np.round(16 * polygon).astype(np.int32)], 1)
            result.append((label, large[8::16, 8::16] != 0))
        return result

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, bright where an instance is."""
        pixels = np.full((self.height, self.width, 3), 30, np.uint8)
        for _, mask in self.masks():
            pixels[mask] = 220
        return pixels


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def drawn_set() -> list[Drawn]:
    """Three pictures, with a subfolder, a space and letters beyond ASCII in names; one has no instances."""
    triangle = np.array([[4.0, 30.0], [28.5, 33.25], [17.75, 6.5]])
    return [
        Drawn("first.png", 64, 48, [("cat", rectangle(5, 6, 25, 36)), ("dog", rectangle(30, 10, 60, 40))]),
        Drawn("deep/ядро 2.png", 40, 52, [("dog", triangle)]),
        Drawn("empty.png", 33, 33, []),
    ]


def save_picture(path: Path, pixels: np.ndarray, orientation: int = 1) -> None:
    """Write upright `pixels` as a camera would store them under an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if orientation == 1:
        image.save(path)
        return
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    image.transpose(TO_STORED[orientation]).save(path, exif=exif)


def stored_array(array: np.ndarray, orientation: int) -> np.ndarray:
    """An upright (H, W) array of uint8 as it lies in the stored picture."""
    if orientation == 1:
        return array
    return np.asarray(Image.fromarray(array).transpose(TO_STORED[orientation]))


def load(name: str) -> dict[str, tuple[np.ndarray, list[tuple[str, np.ndarray]]]]:
    """By file name under the image root: pixels and (class, mask) as Detectron2's loader gives them, once the
    data set has passed the checks."""
    check_datasets(name, training=False)
    metadata = MetadataCatalog.get(name)
    mapper = DatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=True, instance_mask_format="bitmask"
    )
    result = {}
    for record in DatasetCatalog.get(name):
        sample = mapper(record)
        instances = sample["instances"]
        masks = instances.gt_masks.tensor.numpy() if len(instances) else []
        labels = [metadata.thing_classes[index] for index in instances.gt_classes.tolist()]
        file_name = Path(record["file_name"]).relative_to(metadata.image_root).as_posix()
        result[file_name] = sample["image"].permute(1, 2, 0).numpy(), list(zip(labels, masks))
    return result


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max((one | other).sum(), 1)


def assert_equals_drawn(name: str, drawn: list[Drawn], least_iou: float = 0.97, prefix: str = "") -> None:
    """The data set `name` holds the pictures and instances of `drawn`."""
    loaded = load(name)
    assert set(loaded) == {prefix + picture.name for picture in drawn}
    for picture in drawn:
        pixels, instances = loaded[prefix + picture.name]
        np.testing.assert_array_equal(pixels, picture.pixels())
        expected = picture.masks()
        assert [label for label, _ in instances] == [label for label, _ in expected]
        for (_, mask), (_, true_mask) in zip(instances, expected):
            assert iou(mask, true_mask) >= least_iou


def name_of(written: list[tuple[Path, Path]], index: int = 0) -> str:
    """coco:JSON:IMAGE_ROOT of what `write_coco` returned."""
    json_file, image_root = written[index]
    return f"coco:{json_file}:{image_root}"
