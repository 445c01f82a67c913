"""Class scores and boxes of RoIs: Detectron2's layers, with losses that need no host sync."""

import torch
import torch.nn.functional as F
from detectron2.layers import cross_entropy
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mrcnn_plugin.ops import grouped_nms

from .base_method import base_method
from .matching import Positions, box_regression_loss, where_true
from .rpn import clipped
from .scalars import put_scalars


class BoxPredictor(FastRCNNOutputLayers):
    """Detectron2's FastRCNNOutputLayers, same arguments, parameters and results.

    The losses need no host sync; inference needs two for all images together.
    """

    @torch.jit.unused
    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg`, weighted.

        Args:
            predictions: logits (K, num_classes + 1), deltas (K, 4 * num_classes) or (K, 4).
            proposals: N Instances, K in all, with `proposal_boxes`, `gt_classes` and, in images that have
                ground truth, `gt_boxes`.
        """
        scores, deltas = predictions
        classes = torch.cat([image.gt_classes for image in proposals])
        boxes = torch.cat([image.proposal_boxes.tensor for image in proposals])
        targets = torch.cat(
            [
                (image.gt_boxes if image.has("gt_boxes") else image.proposal_boxes).tensor
                for image in proposals
            ]
        )
        log_classification(scores, classes)
        losses = {
            "loss_cls": cross_entropy(scores, classes, reduction="mean"),
            "loss_box_reg": self.box_reg_loss(boxes, targets, deltas, classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.jit.unused
    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Loss of the positive RoIs' boxes, over the number K of all RoIs.

        Args:
            proposal_boxes, gt_boxes: (K, 4) xyxy.
            pred_deltas: (K, 4 * num_classes), or (K, 4) if class-agnostic.
            gt_classes: int64 (K,); neither -1 nor num_classes is positive.
        """
        positive = (gt_classes >= 0) & (gt_classes < self.num_classes)
        if pred_deltas.shape[1] != proposal_boxes.shape[1]:
            rows = torch.arange(len(gt_classes), device=gt_classes.device)
            one_each = gt_classes.clamp(0, self.num_classes - 1)
            pred_deltas = pred_deltas.view(-1, self.num_classes, proposal_boxes.shape[1])[rows, one_each]
        # The others are left out below; a square for each keeps their losses, and so the gradients, finite.
        square = torch.zeros_like(proposal_boxes)
        square[:, 2:] = 1.0
        proposal_boxes = torch.where(positive[:, None], proposal_boxes, square)
        gt_boxes = torch.where(positive[:, None], gt_boxes, square)
        losses = box_regression_loss(
            self.box_reg_loss_type,
            self.box2box_transform,
            pred_deltas,
            proposal_boxes,
            gt_boxes,
            self.smooth_l1_beta,
        )
        return torch.where(positive, losses, 0.0).sum() / max(gt_classes.numel(), 1.0)

    _detect = base_method(FastRCNNOutputLayers.inference, "_detect")

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections: every class's boxes above the threshold, without those that a better one overlaps.

        Args:
            predictions: as for `losses`.
            proposals: N Instances with `proposal_boxes`.

        Returns:
            N Instances with `pred_boxes`, `scores` and `pred_classes`, by falling score; and N times the RoI
            that each is of, int64.
        """
        if torch.jit.is_scripting():
            return self._detect(predictions, proposals)
        else:
            if torch.jit.is_tracing() or not proposals:
                return self._detect(predictions, proposals)
            return self._select(predictions, proposals)

    @torch.jit.unused
    def _select(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """As `inference`."""
        logits, deltas = predictions
        sizes = [len(image) for image in proposals]
        probabilities = F.softmax(logits, dim=-1)
        finite = deltas.isfinite().all(dim=1) & probabilities.isfinite().all(dim=1)
        above = (probabilities[:, :-1] > self.test_score_thresh) & finite[:, None]
        found = where_true([one.flatten() for one in above.split(sizes)])
        parts = zip(found, probabilities.split(sizes), deltas.split(sizes), proposals, strict=True)
        candidates = [self._candidates(*part) for part in parts]
        kept = where_true([keep for *_, keep in candidates])
        results, indices = [], []
        for image, (boxes, scores, rois, classes, _), positions in zip(proposals, candidates, kept):
            number = positions.count
            if self.test_topk_per_image >= 0:
                number = min(number, self.test_topk_per_image)
            best = positions.first(number)
            result = Instances(image.image_size, pred_boxes=Boxes(boxes[best]))
            result.scores, result.pred_classes = scores[best], classes[best]
            results.append(result)
            indices.append(rois[best])
        return results, indices

    @torch.jit.unused
    def _candidates(
        self, above: Positions, probabilities: Tensor, deltas: Tensor, proposals: Instances
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, RoIs and classes above the threshold, by falling score, and which are kept."""
        num_classes = probabilities.shape[1] - 1
        position = above.first(above.count)
        rois, classes = position // num_classes, position % num_classes
        scores, order = probabilities[rois, classes].sort(descending=True, stable=True)
        rois, classes = rois[order], classes[order]
        per_class = deltas.view(len(deltas), -1, 4)
        chosen = per_class[rois, classes if per_class.shape[1] > 1 else torch.zeros_like(classes)]
        boxes = self.box2box_transform.apply_deltas(chosen, proposals.proposal_boxes.tensor[rois])
        boxes = clipped(boxes, proposals.image_size)
        return boxes, scores, rois, classes, grouped_nms(boxes, classes, num_classes, self.test_nms_thresh)


@torch.no_grad()
def log_classification(logits: Tensor, classes: Tensor) -> None:
    """Puts Detectron2's three classification metrics in the event storage.

    Args:
        logits: (K, num_classes + 1), the background last.
        classes: int64 (K,), the right ones.
    """
    number = classes.numel()
    if number == 0:
        return
    predicted, background = logits.argmax(dim=1), logits.shape[1] - 1
    positive = (classes >= 0) & (classes < background)
    right = predicted == classes
    counts = [one.sum() for one in (right, positive, right & positive, positive & (predicted == background))]

    def scalars(right: float, positive: float, right_positive: float, missed: float) -> dict[str, float]:
        found = {"fast_rcnn/cls_accuracy": right / number}
        if positive:
            found["fast_rcnn/fg_cls_accuracy"] = right_positive / positive
            found["fast_rcnn/false_negative"] = missed / positive
        return found

    put_scalars(counts, scalars)
