"""The fine-tuning config on a set that nobody prepared: odd sizes, a huge and an empty image, any classes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from helpers.tiny_runs import ROOT, train_in_process

CONFIG = ROOT / "configs/FineTune/mask_rcnn_efficientnet_lite0_FPN.py"
SIZES = [(61, 37), (113, 259), (3000, 2201), (301, 97), (64, 64), (45, 200)]
EMPTY = 4


def draw_set(folder, num_classes):
    """Annotations of discs, several to an image; ids of images and classes have gaps, file names spaces."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index, (width, height) in enumerate(SIZES):
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        name = f"Bild {index} ä.png"
        images.append({"id": 7 * index + 3, "file_name": name, "width": width, "height": height})
        for number in range(0 if index == EMPTY else 6):
            radius = min(width, height) * rng.uniform(0.06, 0.2)
            center = rng.uniform(radius, [width - radius, height - radius])
            angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            polygon = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cv2.fillPoly(pixels, [polygon.round().astype(np.int32)], (200, 180, 90))
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * index + 3,
                    "category_id": 11 + 3 * ((6 * index + number) % num_classes),
                    "segmentation": [polygon.ravel().tolist()],
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(np.pi * radius**2),
                    "iscrowd": 0,
                }
            )
        encoded, data = cv2.imencode(".png", pixels)
        assert encoded
        (folder / name).write_bytes(data.tobytes())
    categories = [{"id": 11 + 3 * label, "name": f"Zelle {label}"} for label in range(num_classes)]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.parametrize("num_classes", [1, 20])
def test_trains_without_an_override_of_what_the_data_decides(tmp_path, num_classes):
    pictures, run = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    names = f"dataloader.train.dataset.names=coco:{draw_set(pictures, num_classes)}:{pictures}"
    # Only the length: the recipe would train for as many iterations as a real set needs.
    arguments = ["--config-file", str(CONFIG), names, f"train.output_dir={run}", "train.max_iter=1"]
    assert train_in_process(arguments) == 0
    # There may be no detection yet whose AP could be told.
    assert "bbox" in json.loads((run / "results.json").read_text())["results"]
    assert json.loads((run / "split" / "held_out.json").read_text())["annotations"]
    assert f"model.roi_heads.num_classes = {num_classes}" in (run / "log.txt").read_text()
    (metrics,) = (json.loads(line) for line in (run / "metrics.json").read_text().splitlines()[:1])
    assert np.isfinite(metrics["total_loss"])
