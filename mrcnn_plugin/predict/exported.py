"""Prediction by an exported file, as by the run folder that it was made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, Instances
from PIL import Image

from mrcnn_plugin.data import metadata_of
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import RLEMasks
from mrcnn_plugin.ops import encode_masks
from mrcnn_plugin.runtime import Detections, ExportedModel, load

from .predictor import Predictor, check_threshold


class ExportedPredictor(Predictor):
    """Detects objects in image files, as a run folder's predictor does, by an exported model on the CPU.

    It has neither `config` nor `model`.
    """

    def __init__(self, path: str, threshold: float | None = None) -> None:
        """
        Args:
            path: a file that export.py wrote.
            threshold: least score, in [0, 1]; None takes the file's own.

        Raises:
            ConfigError: it is no such file, or finds no scores as low as the threshold.
        """
        if threshold is not None:
            check_threshold(threshold)
        self._exported: ExportedModel = load(path)
        least = self._exported.description.score_threshold
        threshold = least if threshold is None else threshold
        if threshold < least:
            raise ConfigError(
                f"--score-threshold must be at least {least:g}, that of {path}, got {threshold:g}"
            )
        self.metadata = metadata_of(self._exported.description.metadata)
        self.threshold = threshold

    @property
    def device(self) -> str:
        return "cpu"

    def _read(self, path: str) -> tuple[dict, np.ndarray]:
        image = np.asarray(utils.read_image(path, format="RGB"), dtype=np.uint8)
        return {"image": image}, image

    def model_input(self, image: Image.Image) -> dict:
        return {"image": np.asarray(utils.convert_PIL_to_numpy(image, "RGB"), dtype=np.uint8)}

    def detect(self, model_inputs: Sequence[dict]) -> list[Instances]:
        results = []
        for image in (model_input["image"] for model_input in model_inputs):
            found = self._exported(image)
            kept = found.select(np.flatnonzero(found.scores >= self.threshold))
            results.append(self._instances(kept, image.shape[:2]))
        return results

    def _instances(self, found: Detections, size: tuple[int, int]) -> Instances:
        fields = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in found.fields().items()}
        instances = Instances(size)
        instances.pred_boxes = Boxes(fields["boxes"])
        instances.scores, instances.pred_classes = fields["scores"], fields["classes"]
        if "masks" in fields:
            masks, boxes, threshold = (
                fields["masks"],
                fields["boxes"],
                self._exported.description.mask_threshold,
            )
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
