"""Detection in one picture as a function of tensors alone, on the modules and weights of a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.ops import paste_masks

from .heads import heads_graph
from .proposals import check_proposal_generator, propose
from .resize import ShortestEdge, resize
from .sizes import ceil_div, computed


class DetectionGraph(nn.Module):
    """What `torch.export` traces: picture in, detections out, with nothing but tensors between.

    The model is held, not copied: weights, thresholds and layers are its own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        resizing: ShortestEdge | None = None,
        pasted_masks: bool = False,
        mask_threshold: float = 0.5,
    ) -> None:
        """
        Args:
            model: a GeneralizedRCNN in eval mode, with an RPN.
            resizing: of the picture, within the graph; None: the picture has its size already.
            pasted_masks: masks as bool (K, H, W) in place of (K, M, M) probabilities.
            mask_threshold: probability from which a pasted mask is set.

        Raises:
            ConfigError: a part of the model that cannot be exported.
        """
        super().__init__()
        if not isinstance(model, GeneralizedRCNN):
            raise ConfigError(f"only a GeneralizedRCNN can be exported, got a {type(model).__name__}")
        check_proposal_generator(model.proposal_generator)
        self.model = model
        self._heads = heads_graph(model.roi_heads)
        self._resizing = resizing
        self._pasted_masks, self._mask_threshold = pasted_masks, mask_threshold

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """
        Args:
            image: uint8 (H, W, C), colours in the model's order.

        Returns:
            boxes: (K, 4) float32 xyxy in pixels of `image`.
            scores: (K,) float32, falling.
            classes: (K,) int64.
            masks: of a model with masks, (K, M, M) float32 probabilities within the boxes, or bool (K, H, W).
            mask_scores: (K,) float32 by which masks are ranked, of a model that predicts them.
            keypoints: (K, num_keypoints, 3) float32 x, y, score, of a model with keypoints.
        """
        # Cast first: TensorRT takes 8-bit numbers as an input and nowhere else.
        x = image.float().permute(2, 0, 1)
        height, width = image.shape[:2]
        if self._resizing is not None:
            height, width = (computed(side, least=8) for side in self._resizing.size(height, width))
            x = resize(x, height, width)
        features = self._heads.prepare(self.model.backbone(self._normalize(x)))
        proposals = propose(self.model.proposal_generator, features, height, width)
        detections = self._heads.detect(features, proposals, height, width)
        boxes, scores, classes = detections
        outputs = self._heads.branches(features, detections)
        if self._resizing is not None:
            one = torch.ones(())
            scale = torch.stack([one * image.shape[1] / width, one * image.shape[0] / height])
            boxes = boxes * scale.repeat(2)
            if "keypoints" in outputs:
                outputs["keypoints"] = outputs["keypoints"] * torch.cat([scale, torch.ones(1)])
        if self._pasted_masks and "masks" in outputs:
            size = (image.shape[0], image.shape[1])
            outputs["masks"] = paste_masks(outputs["masks"], boxes, size, self._mask_threshold)
        return {"boxes": boxes, "scores": scores, "classes": classes, **outputs}

    def _normalize(self, x: Tensor) -> Tensor:
        """(C, H, W) in 0 to 255 to float32 (1, C, H', W'), padded to what the backbone divides."""
        height, width = x.shape[1:]
        x = (x - self.model.pixel_mean) / self.model.pixel_std
        divisor = self.model.backbone.size_divisibility
        if divisor > 1:
            rows, columns = (computed(ceil_div(side, divisor)) for side in (height, width))
            x = F.pad(x, (0, columns * divisor - width, 0, rows * divisor - height))
        return x[None].contiguous()
