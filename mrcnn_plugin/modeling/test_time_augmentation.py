"""Test-time augmentation: an image at several scales and mirrored, the results merged.

Detectron2's GeneralizedRCNNWithTTA merges boxes (their union, then non-maximum suppression) and averages the
masks of the merged boxes. In addition, keypoint heatmaps are averaged in the same way, as Detectron's
TEST.KPS_AUG does by its heuristic HM_AVG, and decoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError

from .keypoint_head import decode
from .rcnn import MaskRCNN

# No limit to the longer side: it follows from the image's own.
_ANY_SIZE = 1 << 30


class RelativeScales:
    """Maps an input of the model to copies of it, each scale of its own size with and without mirroring."""

    def __init__(self, scales: Sequence[float] = (0.8, 1.0, 1.25), flip: bool = True) -> None:
        self.scales = tuple(scales)
        self.flip = flip

    def __call__(self, model_input: dict[str, Any]) -> list[dict[str, Any]]:
        """As DatasetMapperTTA: a list of inputs with `transforms`."""
        shortest = min(model_input["image"].shape[-2:])
        sizes = [max(1, round(scale * shortest)) for scale in self.scales]
        return DatasetMapperTTA(sizes, _ANY_SIZE, self.flip)(model_input)


def flip_indices(metadata: Metadata) -> list[int]:
    """For each keypoint that which it becomes in a mirror image.

    Raises:
        ConfigError: the metadata do not say.
    """
    names, pairs = metadata.get("keypoint_names"), metadata.get("keypoint_flip_map")
    if not names or pairs is None:
        raise ConfigError(
            "test-time augmentation of keypoints mirrors images, which needs the data set's keypoint_names "
            "and keypoint_flip_map; they are missing"
        )
    partner = {**dict(pairs), **{second: first for first, second in pairs}}
    return [names.index(partner.get(name, name)) for name in names]


class RCNNWithTTA(GeneralizedRCNNWithTTA):
    """A GeneralizedRCNN that is called as ever, with augmented images; boxes, masks and keypoints.

    Masks come in the form that a MaskRCNN's `mask_format` says.
    """

    def __init__(
        self,
        model: GeneralizedRCNN,
        mapper: DatasetMapperTTA | RelativeScales,
        metadata: Metadata,
        *,
        batch_size: int = 3,
    ) -> None:
        """
        Args:
            model: with RoI heads; used as it is, not copied.
            mapper: gives the augmented inputs of an input.
            metadata: of the model's classes, for models with keypoints.
            batch_size: augmented images in one run of the network.

        Raises:
            ConfigError: another kind of model, or keypoints whose mirror images are not known.
        """
        heads = getattr(model, "roi_heads", None)
        if not isinstance(model, GeneralizedRCNN) or heads is None:
            raise ConfigError(
                f"test-time augmentation takes a GeneralizedRCNN with RoI heads, got {type(model).__name__}"
            )
        predictor: Any = heads.box_predictor
        if isinstance(predictor, nn.ModuleList):
            # A cascade's last stage decides.
            predictor = predictor[-1]
        super().__init__(_settings(heads, predictor), model, mapper, batch_size)
        self.keypoint_on = bool(getattr(heads, "keypoint_on", False))
        self._flip_indices = flip_indices(metadata) if self.keypoint_on and mapper.flip else []

    def _inference_one_image(self, input: dict) -> dict[str, Instances]:
        size = input["height"], input["width"]
        augmented, transforms = self._get_augmented_inputs(input)
        with self._turn_off_roi_heads(["mask_on", "keypoint_on"]):
            boxes, scores, classes = self._get_augmented_boxes(augmented, transforms)
        merged = self._merge_detections(boxes, scores, classes, size)
        mask_on = self.cfg.MODEL.MASK_ON
        if mask_on or self.keypoint_on:
            given = self._rescale_detected_boxes(augmented, merged, transforms)
            outputs = self._batch_inference(augmented, given)
            if mask_on:
                merged.pred_masks = self._reduce_pred_masks(outputs, transforms)
                if outputs[0].has("mask_scores"):
                    mask_scores = [output.mask_scores for output in outputs]
                    merged.mask_scores = torch.stack(mask_scores).mean(dim=0)
            if self.keypoint_on:
                decode(self._mean_heatmaps(outputs, transforms), [merged])
        postprocess = self.model.postprocess if isinstance(self.model, MaskRCNN) else detector_postprocess
        return {"instances": postprocess(merged, *size)}

    def _mean_heatmaps(self, outputs: list[Instances], transforms: list) -> Tensor:
        """(K, num_keypoints, S, S) logits; a heatmap covers its box, whatever the scale."""
        heatmaps = []
        for output, transform in zip(outputs, transforms):
            maps = output.pred_keypoint_heatmaps
            if any(isinstance(step, HFlipTransform) for step in transform.transforms):
                maps = maps.flip(dims=[3])[:, self._flip_indices]
            heatmaps.append(maps)
        return torch.stack(heatmaps).mean(dim=0)


def _settings(heads: nn.Module, predictor: Any) -> CfgNode:
    """What Detectron2's class reads of a config, from the model itself: so LazyConfigs have it too."""
    model = {
        "MASK_ON": bool(getattr(heads, "mask_on", False)),
        "KEYPOINT_ON": False,
        "LOAD_PROPOSALS": False,
        "ROI_HEADS": {"NUM_CLASSES": heads.num_classes, "NMS_THRESH_TEST": predictor.test_nms_thresh},
    }
    return CfgNode({"MODEL": model, "TEST": {"DETECTIONS_PER_IMAGE": predictor.test_topk_per_image}})
