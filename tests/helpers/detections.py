"""Small COCO data sets, and detections that are wrong in every way that a detector is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

HEIGHT, WIDTH = 120, 160
NUM_KEYPOINTS = 17


def coco_of(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(None):
        coco.createIndex()
    return coco


def box_rle(box: Sequence[float]) -> dict:
    """RLE of the pixels of an xywh box."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    x, y, w, h = (round(value) for value in box)
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    rle = mask_util.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def dataset_of(images: Sequence[Sequence[tuple]], classes: Sequence[str] = ("cat", "dog", "cow")) -> dict:
    """COCO annotations; each image is a list of (class index, xywh box[, further fields])."""
    annotations = []
    for image, objects in enumerate(images):
        for which, box, *more in objects:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image + 1,
                "category_id": 10 * which + 10,
                "iscrowd": 0,
                "bbox": list(map(float, box)),
                "area": float(box[2] * box[3]),
                "segmentation": box_rle(box),
            }
            annotations.append(annotation | (more[0] if more else {}))
    return {
        "info": {},
        "images": [
            {"id": i + 1, "file_name": f"{i + 1}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(len(images))
        ],
        "categories": [{"id": 10 * i + 10, "name": name} for i, name in enumerate(classes)],
        "annotations": annotations,
    }


def detection(image: int, which: int, box: Sequence[float], score: float, **more: object) -> dict:
    """A COCO result with box and mask; image and class from 0."""
    return {
        "image_id": image + 1,
        "category_id": 10 * which + 10,
        "bbox": list(map(float, box)),
        "score": score,
        "segmentation": box_rle(box),
        **more,
    }


def random_case(seed: int, *, images: int = 12, crowds: bool = True) -> tuple[dict, list[dict]]:
    """Annotations of boxes, masks and keypoints, and detections around them: shifted, doubled, of other
    classes, on the background, or missing. The last class has no annotation, image 1 neither."""
    rng = np.random.default_rng(seed)
    scenes, results = [], []
    for image in range(images):
        scene = []
        for _ in range(int(rng.integers(1, 9)) if image else 0):
            size = rng.uniform(8, 60, 2)
            box = np.concatenate([rng.uniform(0, 1, 2) * ([WIDTH, HEIGHT] - size), size])
            which = int(rng.integers(0, 2))
            points = np.concatenate(
                [
                    box[:2] + rng.uniform(0, 1, (NUM_KEYPOINTS, 2)) * size,
                    rng.integers(0, 3, (NUM_KEYPOINTS, 1)),
                ],
                axis=1,
            )
            more = {
                "iscrowd": int(crowds and rng.random() < 0.1),
                "keypoints": points.ravel().tolist(),
                "num_keypoints": int((points[:, 2] > 0).sum()),
            }
            scene.append((which, box.tolist(), more))
            for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
                spread = rng.choice([0.04, 0.15, 0.4])
                moved = np.concatenate(
                    [box[:2] + rng.normal(0, spread, 2) * size, size * rng.uniform(0.8, 1.25, 2)]
                )
                found = points.copy()
                found[:, :2] += rng.normal(0, 0.2 * spread, (NUM_KEYPOINTS, 2)) * size
                found[:, 2] = 1
                results.append(
                    detection(
                        image,
                        which if rng.random() < 0.8 else int(rng.integers(0, 3)),
                        moved.tolist(),
                        round(float(rng.beta(3, 2)), 2),
                        keypoints=found.ravel().tolist(),
                    )
                )
        scenes.append(scene)
        box = [*rng.uniform(0, 60, 2), *rng.uniform(8, 50, 2)]
        points = np.concatenate(
            [box[:2] + rng.uniform(0, 40, (NUM_KEYPOINTS, 2)), np.ones((NUM_KEYPOINTS, 1))], axis=1
        )
        results.append(
            detection(
                image,
                int(rng.integers(0, 3)),
                [float(value) for value in box],
                round(float(rng.beta(1, 4)), 2),
                keypoints=points.ravel().tolist(),
            )
        )
    dataset = dataset_of(scenes)
    for category in dataset["categories"]:
        category["keypoints"] = [f"point {index}" for index in range(NUM_KEYPOINTS)]
    return dataset, results
