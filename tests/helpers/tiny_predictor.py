"""A predictor without a network: bright spots on a dark ground are its objects."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_plugin.evaluation import instances_to_coco_json
from mrcnn_plugin.modeling import RLEMasks


class BrightSpots:
    """What of `Predictor` the programs call; a connected region brighter than half is an instance."""

    def __init__(self) -> None:
        self.metadata = Metadata().set(thing_classes=["spot"])

    def model_input(self, image: Image.Image) -> dict:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return {"image": pixels, "height": image.height, "width": image.width}

    def detect(self, inputs: Sequence[dict]) -> list[Instances]:
        return [self._spots(each["image"].numpy()) for each in inputs]

    def _spots(self, image: np.ndarray) -> Instances:
        bright = (image.mean(0) > 128).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(bright)
        kept = [index for index in range(1, count) if stats[index, cv2.CC_STAT_AREA] >= 16]
        boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in stats[kept].tolist()]
        return Instances(
            image.shape[1:],
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            scores=torch.full((len(kept),), 0.9),
            pred_classes=torch.zeros(len(kept), dtype=torch.int64),
            pred_masks_rle=RLEMasks(
                mask_util.encode(np.asfortranarray((labels == index).astype(np.uint8))) for index in kept
            ),
        )

    def coco_results(self, instances: Instances, image_id: int, file_name: str) -> list[dict]:
        return [{**r, "file_name": file_name} for r in instances_to_coco_json(instances, image_id)]
