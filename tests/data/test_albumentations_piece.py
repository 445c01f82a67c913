"""albumentations as a piece: annotations follow the pixels, as Detectron2's and as drawn masks do."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_plugin.data import Albumentations, seed_generators
from mrcnn_plugin.errors import ConfigError

A = pytest.importorskip("albumentations")

HEIGHT, WIDTH = 96, 128
POLYGON = np.array([[30.0, 20.0], [90.0, 25.0], [80.0, 70.0], [40.0, 60.0]])


def drawn(polygon, height, width):
    rle = mask_util.frPyObjects([np.asarray(polygon).ravel().tolist()], height, width)
    return mask_util.decode(rle)[:, :, 0]


def applied(*transforms, image=None, seed=0):
    """The transform that was drawn, and the image as it is then."""
    seed_generators(seed)
    image = drawn(POLYGON, HEIGHT, WIDTH)[:, :, None].repeat(3, axis=2) * 255 if image is None else image
    aug_input = T.AugInput(image)
    transform = Albumentations(transforms)(aug_input)
    return transform, aug_input.image


GEOMETRIC = [
    lambda: A.HorizontalFlip(p=1),
    lambda: A.VerticalFlip(p=1),
    lambda: A.Transpose(p=1),
    lambda: A.RandomRotate90(p=1),
    lambda: A.Resize(200, 300, p=1),
    lambda: A.LongestMaxSize(64, p=1),
    lambda: A.RandomScale((0.8, 0.9), p=1),
    lambda: A.Affine(scale=(0.8, 1.2), rotate=(-30, 30), translate_percent=(-0.1, 0.1), shear=(-8, 8), p=1),
    lambda: A.Rotate((20, 40), p=1),
    lambda: A.Perspective(scale=(0.05, 0.1), p=1),
    lambda: A.RandomCrop(60, 80, p=1),
    lambda: A.RandomResizedCrop((80, 90), scale=(0.5, 0.9), p=1),
    lambda: A.PadIfNeeded(160, 160, p=1),
    lambda: A.Compose([A.HorizontalFlip(p=0.5), A.OneOf([A.Rotate((30, 30), p=1), A.Transpose(p=1)], p=1)]),
]


@pytest.mark.parametrize("make", GEOMETRIC)
def test_polygons_and_masks_follow_the_pixels(make):
    transform, image = applied(make())
    height, width = image.shape[:2]
    seen = image[:, :, 0] > 127
    mask = transform.apply_segmentation(drawn(POLYGON, HEIGHT, WIDTH)) > 0
    outline = drawn(transform.apply_polygons([POLYGON])[0], height, width) > 0
    assert mask.shape == outline.shape == (height, width)
    for moved in (mask, outline):
        # A pixel along the border either way.
        assert (moved & seen).sum() / (moved | seen).sum() > 0.95
    # Nearer than half a pixel: a constant shift of the outline would show in the centroid.
    if outline.any() and mask.any():
        centres = [np.argwhere(m).mean(axis=0) for m in (seen, outline)]
        assert np.abs(centres[0] - centres[1]).max() < 0.35


def test_a_flip_is_detectron2s():
    transform, _ = applied(A.HorizontalFlip(p=1))
    theirs = T.HFlipTransform(WIDTH)
    points = np.array([[0.0, 0.0], [10.5, 3.0], [WIDTH, HEIGHT]])
    np.testing.assert_allclose(transform.apply_coords(points), theirs.apply_coords(points.copy()), atol=1e-4)
    box = np.array([[10.0, 20.0, 30.0, 50.0]])
    np.testing.assert_allclose(transform.apply_box(box), theirs.apply_box(box.copy()), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "mirrors"),
    [
        (lambda: A.HorizontalFlip(p=1), True),
        (lambda: A.VerticalFlip(p=1), True),
        (lambda: A.Transpose(p=1), True),
        (lambda: A.Rotate((170, 170), p=1), False),
        (lambda: A.Compose([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)]), False),
        (lambda: A.HueSaturationValue(p=1), False),
    ],
)
def test_keypoints_change_sides_in_a_mirror_alone(tmp_path, make, mirrors):
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "image.png")
    mapper = DatasetMapper(
        True,
        augmentations=[Albumentations([make()])],
        image_format="BGR",
        use_keypoint=True,
        keypoint_hflip_indices=[1, 0],
    )
    annotation = {
        "bbox": [20, 20, 80, 60],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        # Left at the left, right at the right.
        "keypoints": [40, 40, 2, 90, 40, 2],
    }
    sample = mapper({"file_name": str(tmp_path / "image.png"), "annotations": [annotation]})
    points = sample["instances"].gt_keypoints.tensor[0, :, :2].numpy()
    transform, _ = applied(make())
    moved = transform.apply_coords(np.array([[40.0, 40.0], [90.0, 40.0]]))
    np.testing.assert_allclose(points, moved[::-1] if mirrors else moved, atol=1e-3)


def test_colours_are_of_rgb_and_leave_annotations():
    red_in_bgr = np.zeros((8, 8, 3), np.uint8)
    red_in_bgr[:, :, 2] = 255
    transform, image = applied(A.ToGray(p=1), image=red_in_bgr)
    # The weight of red in grey is 0.299.
    assert image[0, 0].tolist() == [76, 76, 76]
    points = np.array([[1.5, 2.25]])
    assert transform.apply_coords(points).tolist() == points.tolist()
    mask = np.eye(8, dtype=np.uint8)
    assert (transform.apply_segmentation(mask) == mask).all()


def test_numpys_generator_decides():
    make = GEOMETRIC[7]
    images = [applied(make(), seed=seed)[1] for seed in (1, 1, 2)]
    assert (images[0] == images[1]).all()
    assert not (images[0] == images[2]).all()


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(ConfigError, match="cannot follow RandomGridShuffle"):
        Albumentations([A.Compose([A.RandomGridShuffle(p=1)])])
    with pytest.raises(ConfigError, match="BBoxSafeRandomCrop chooses by boxes"):
        Albumentations([A.BBoxSafeRandomCrop(p=1)])


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'albumentations>=2'"):
        Albumentations([])
