"""The mask head of PointRend: a coarse mask, refined at the points where it is least certain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.projects.point_rend.mask_head import ConvFCHead, PointRendMaskHead
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_point_coords_wrt_image,
    get_uncertain_point_coords_on_grid,
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mrcnn_plugin.modeling.mask_loss import sigmoid_mask_loss

from .point_head import OneClassPointHead
from .point_labels import point_labels


@ROI_MASK_HEAD_REGISTRY.register()
class PointMaskHead(PointRendMaskHead):
    """Detectron2's PointRendMaskHead, same parameters and results, with these differences:

    - It is built from keyword arguments too.
    - Only the class in question is predicted at a point and refined (`OneClassPointHead`), so that the
      masks of K RoIs take K x 224 x 224 logits and not num_classes times as many.
    - Images without instances or without masks train.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        in_features: Sequence[str] = ("p2",),
        pooler_resolution: int = 14,
        conv_dim: int = 256,
        fc_dim: int = 1024,
        num_fc: int = 2,
        coarse_resolution: int = 7,
        point_in_features: Sequence[str] = ("p2",),
        point_fc_dim: int = 256,
        num_point_fc: int = 3,
        coarse_pred_each_layer: bool = True,
        class_agnostic: bool = False,
        train_num_points: int = 14 * 14,
        oversample_ratio: float = 3,
        importance_sample_ratio: float = 0.75,
        subdivision_steps: int = 5,
        subdivision_num_points: int = 28 * 28,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the image's feature maps, by name.
            num_classes: foreground classes.
            in_features: feature maps of the coarse head.
            pooler_resolution: side of the grid of points that it samples in a RoI.
            conv_dim, fc_dim, num_fc: channels of its convolutions; width and number of its hidden layers.
            coarse_resolution: side of the coarse mask.
            point_in_features: feature maps that the point head sees.
            point_fc_dim, num_point_fc: width and number of its hidden layers.
            coarse_pred_each_layer: whether each of them sees the coarse prediction, or only the first.
            class_agnostic: the point head predicts one mask for all classes; the coarse one is per class.
            train_num_points: points per RoI in training (paper section 3.1).
            oversample_ratio: so many times as many random points are drawn to choose from.
            importance_sample_ratio: the part of `train_num_points` that are the least certain of them, the
                others being random.
            subdivision_steps: times that the mask's side is doubled in inference.
            subdivision_num_points: points per RoI that are predicted anew after each of them.
        """
        # PointRendMaskHead's own method reads all this from a CfgNode.
        super(PointRendMaskHead, self).__init__()
        self.num_classes = num_classes
        self._feature_scales = {name: 1.0 / shape.stride for name, shape in input_shape.items()}
        self.mask_point_in_features = list(point_in_features)
        self.mask_point_train_num_points = train_num_points
        self.mask_point_oversample_ratio = oversample_ratio
        self.mask_point_importance_sample_ratio = importance_sample_ratio
        self.mask_point_subdivision_num_points = subdivision_num_points
        side, steps = _first_subdivision(coarse_resolution, subdivision_steps, subdivision_num_points)
        self.mask_point_subdivision_init_resolution, self.mask_point_subdivision_steps = side, steps
        self.point_head = OneClassPointHead(
            ShapeSpec(channels=sum(input_shape[name].channels for name in point_in_features)),
            num_classes=num_classes,
            fc_dim=point_fc_dim,
            num_fc=num_point_fc,
            coarse_pred_each_layer=coarse_pred_each_layer,
            class_agnostic=class_agnostic,
        )
        self.roi_pooler_in_features, self.roi_pooler_size = list(in_features), pooler_resolution
        channels = sum(input_shape[name].channels for name in in_features)
        self.coarse_head = ConvFCHead(
            ShapeSpec(channels=channels, height=pooler_resolution, width=pooler_resolution),
            conv_dim=conv_dim,
            fc_dims=[fc_dim] * num_fc,
            output_shape=(num_classes, coarse_resolution, coarse_resolution),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Reads the keys that `detectron2.projects.point_rend.add_pointrend_config` adds.

        Raises:
            ValueError: another point head than Detectron2's StandardPointHead, or none.
        """
        coarse, points = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.POINT_HEAD
        if not coarse.POINT_HEAD_ON:
            raise ValueError("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON must be True for PointMaskHead, got False")
        if points.NAME != "StandardPointHead":
            raise ValueError(
                f"MODEL.POINT_HEAD.NAME must be 'StandardPointHead' for PointMaskHead, got {points.NAME!r}"
            )
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "in_features": coarse.IN_FEATURES,
            "pooler_resolution": coarse.POOLER_RESOLUTION,
            "conv_dim": coarse.CONV_DIM,
            "fc_dim": coarse.FC_DIM,
            "num_fc": coarse.NUM_FC,
            "coarse_resolution": coarse.OUTPUT_SIDE_RESOLUTION,
            "point_in_features": points.IN_FEATURES,
            "point_fc_dim": points.FC_DIM,
            "num_point_fc": points.NUM_FC,
            "coarse_pred_each_layer": points.COARSE_PRED_EACH_LAYER,
            "class_agnostic": points.CLS_AGNOSTIC_MASK,
            "train_num_points": points.TRAIN_NUM_POINTS,
            "oversample_ratio": points.OVERSAMPLE_RATIO,
            "importance_sample_ratio": points.IMPORTANCE_SAMPLE_RATIO,
            "subdivision_steps": points.SUBDIVISION_STEPS,
            "subdivision_num_points": points.SUBDIVISION_NUM_POINTS,
        }

    def forward(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, `instances` with `pred_masks` in inference.

        Args:
            features: name -> (N, C, H, W).
            instances: N Instances, K in all. In training, foreground proposals with `proposal_boxes`,
                `gt_classes` and `gt_masks`, as BitMasks (images that lack masks are left out of the loss).
                In inference, detections with `pred_boxes` and `pred_classes`.

        Returns:
            {"loss_mask": scalar, "loss_mask_point": scalar}, or `instances` with `pred_masks`,
            probabilities of shape (K_i, 1, S, S), S being 7 x 2^5 by default.
        """
        if self.training:
            return self._losses(features, [x if x.has("gt_masks") else x[:0] for x in instances])
        boxes = [image.pred_boxes for image in instances]
        coarse = self.coarse_head(self._roi_pooler(features, boxes)).float()
        classes = torch.cat([image.pred_classes for image in instances])
        mask_rcnn_inference(self._subdivide(features, boxes, coarse, classes), instances)
        return instances

    def _losses(self, features: dict[str, Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        boxes = [image.proposal_boxes for image in instances]
        coarse = self.coarse_head(self._roi_pooler(features, boxes)).float()
        classes = torch.cat([image.gt_classes for image in instances])
        annotated = [image for image in instances if image.has("gt_masks")]
        points, labels = self._train_points(coarse, boxes, classes, annotated)
        logits = self._logits_at(features, boxes, coarse, classes, points)
        return {
            "loss_mask": sigmoid_mask_loss(of_class(coarse, classes), annotated),
            "loss_mask_point": point_loss(logits, labels),
        }

    def _train_points(
        self, coarse: Tensor, boxes: list[Boxes], classes: Tensor, annotated: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """P points (K, P, 2) in [0, 1] of the boxes, and the ground truth there (K, P)."""
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                of_class(coarse, classes),
                uncertainty,
                self.mask_point_train_num_points,
                self.mask_point_oversample_ratio,
                self.mask_point_importance_sample_ratio,
            )
            in_image = get_point_coords_wrt_image(Boxes.cat(boxes).tensor, points)
            parts = in_image.split([len(image) for image in annotated])
            labels = [point_labels(image.gt_masks, part) for image, part in zip(annotated, parts)]
            return points, torch.cat(labels) if labels else points[:, :, 0]

    def _logits_at(
        self, features: dict[str, Tensor], boxes: list[Boxes], coarse: Tensor, classes: Tensor, points: Tensor
    ) -> Tensor:
        """(K, 1, P) logits of one class at points (K, P, 2) in [0, 1] of the boxes."""
        fine = self._point_pooler(features, boxes, points)
        return self.point_head(fine, point_sample(coarse, points, align_corners=False), classes)

    def _subdivide(
        self, features: dict[str, Tensor], boxes: list[Boxes], coarse: Tensor, classes: Tensor
    ) -> Tensor:
        """(K, 1, S, S) logits by adaptive subdivision (paper section 3.1, Figure 4)."""
        count, side = len(classes), self.mask_point_subdivision_init_resolution
        grid = generate_regular_grid_point_coords(count, side, coarse.device)
        masks = self._logits_at(features, boxes, coarse, classes, grid).view(count, 1, side, side)
        for _ in range(self.mask_point_subdivision_steps):
            side *= 2
            if count == 0:
                continue
            masks = F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False)
            index, points = get_uncertain_point_coords_on_grid(
                uncertainty(masks), self.mask_point_subdivision_num_points
            )
            logits = self._logits_at(features, boxes, coarse, classes, points)
            masks = masks.flatten(2).scatter_(2, index[:, None], logits).view(count, 1, side, side)
        return masks if count else masks.new_zeros((0, 1, side, side))


def _first_subdivision(side: int, steps: int, num_points: int) -> tuple[int, int]:
    """Side of the first mask and steps that are left, past those that would predict every point anew."""
    while 4 * side**2 <= num_points:
        side, steps = 2 * side, steps - 1
    return side, steps


def of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """(K, num_classes, S, S) and (K,) -> (K, 1, S, S)."""
    return logits[torch.arange(len(logits), device=logits.device), classes].unsqueeze(1)


def uncertainty(logits: Tensor) -> Tensor:
    """How close a prediction is to the boundary, where the probability is 0.5: minus the logit's absolute."""
    return -logits.abs()


def point_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Average binary cross-entropy over all points.

    Args:
        logits: (K, 1, P).
        labels: (K, P) in [0, 1]; between them for points between pixels.

    Returns:
        Scalar; 0, still connected to the graph, where there is no RoI.
    """
    if logits.numel() == 0:
        return logits.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits[:, 0].float(), labels)
