"""Prediction by an exported file, as by the run folder that it was made from."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, Instances

from mrcnn_plugin.data import metadata_of
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import RLEMasks
from mrcnn_plugin.ops import encode_masks
from mrcnn_plugin.runtime import Detections, ExportedModel, load

from .predictor import coco_results


class ExportedPredictor:
    """Detects objects in image files, as `Predictor` does, by an exported model.

    Attributes:
        metadata: of the data that the model was trained for.
    """

    def __init__(self, path: str, threshold: float) -> None:
        """
        Args:
            path: a file that export.py wrote.
            threshold: least score, in [0, 1].

        Raises:
            ConfigError: it is no such file, or finds no scores as low as the threshold.
        """
        if not 0 <= threshold <= 1:
            raise ConfigError(f"--score-threshold must be in [0, 1], got {threshold}")
        self._model: ExportedModel = load(path)
        least = self._model.description.score_threshold
        if threshold < least:
            raise ConfigError(
                f"--score-threshold must be at least {least:g}, that of {path}, got {threshold:g}"
            )
        self.metadata: Metadata = metadata_of(self._model.description.metadata)
        self._threshold = threshold

    def predict(self, path: str) -> tuple[Instances, np.ndarray]:
        """As `Predictor.predict`."""
        image = np.asarray(utils.read_image(path, format="RGB"), dtype=np.uint8)
        found = self._model(image)
        return self._instances(found.select(found.scores >= self._threshold), image.shape[:2]), image

    def _instances(self, found: Detections, size: tuple[int, int]) -> Instances:
        fields = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in found.fields().items()}
        instances = Instances(size)
        instances.pred_boxes = Boxes(fields["boxes"])
        instances.scores, instances.pred_classes = fields["scores"], fields["classes"]
        if "masks" in fields:
            masks, boxes, threshold = fields["masks"], fields["boxes"], self._model.description.mask_threshold
            if masks.dtype == torch.bool:
                # Each pixel a cell of a mask that spans the picture: its own value is sampled.
                height, width = size
                boxes = torch.tensor([[0.0, 0.0, width, height]]).expand(len(masks), 4)
                threshold = 0.5
            instances.pred_masks_rle = RLEMasks(encode_masks(masks, boxes, size, threshold))
        if "mask_scores" in fields:
            instances.mask_scores = fields["mask_scores"]
        if "keypoints" in fields:
            instances.pred_keypoints = fields["keypoints"]
        return instances

    def coco_results(self, instances: Instances, image_id: int, file_name: str) -> list[dict]:
        """As `Predictor.coco_results`."""
        return coco_results(self.metadata, instances, image_id, file_name)
