"""Region proposal network: Detectron2's, with two host syncs in training and one in inference."""

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from mrcnn_plugin.ops import nms_segments

from .base_method import base_method
from .matching import box_regression_loss, match, sample

#: Positions of an image's positive and of its negative sampled anchors, int64 each.
Sampled = tuple[Tensor, Tensor]


@PROPOSAL_GENERATOR_REGISTRY.register()
class MaskRCNNRPN(RPN):
    """Detectron2's RPN, same arguments and results.

    The loss is computed from the sampled anchors alone. Counts of all images come to the host in one copy
    each, of anchors to sample from and of proposals; every level of every image is in one suppression.
    """

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Sampled], list[Tensor]]:
        """Which anchors the loss is of, and the boxes that the positive ones should find.

        Args:
            anchors: one for each feature map, A in all.
            gt_instances: N Instances with `gt_boxes`.

        Returns:
            N times the positions of the sampled positive and negative anchors among the A, and N times the
            boxes (number of positive ones, 4).
        """
        every = Boxes.cat(anchors)
        matches, labels = [], []
        for image in gt_instances:
            quality = retry_if_cuda_oom(pairwise_iou)(image.gt_boxes, every)
            index, label = retry_if_cuda_oom(match)(self.anchor_matcher, quality)
            label = label.to(every.device)
            if self.anchor_boundary_thresh >= 0:
                inside = every.inside_box(image.image_size, self.anchor_boundary_thresh)
                label = label.masked_fill(~inside, -1)
            matches.append(index.to(every.device))
            labels.append(label)
        sampled = sample(labels, self.batch_size_per_image, self.positive_fraction, bg_label=0)
        boxes = [
            image.gt_boxes.tensor[index[positive]] if len(image) else every.tensor[positive]
            for image, index, (positive, _) in zip(gt_instances, matches, sampled)
        ]
        return sampled, boxes

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Sampled],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """`loss_rpn_cls` and `loss_rpn_loc`.

        Args:
            anchors: one for each of L feature maps, A in all.
            pred_objectness_logits: L times (N, A_l).
            gt_labels, gt_boxes: of `label_and_sample_anchors`.
            pred_anchor_deltas: L times (N, A_l, 4).
        """
        num_images = len(gt_labels)
        storage = get_event_storage()
        for i, name in enumerate(("pos", "neg")):
            count = sum(len(one[i]) for one in gt_labels)
            storage.put_scalar(f"rpn/num_{name}_anchors", count / num_images)

        logits = cat(pred_objectness_logits, dim=1)
        every = Boxes.cat(anchors).tensor
        positive, negative = (
            torch.cat([image * len(every) + both[i] for image, both in enumerate(gt_labels)]) for i in (0, 1)
        )
        labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
        objectness = F.binary_cross_entropy_with_logits(
            logits.flatten()[torch.cat([positive, negative])], labels.to(torch.float32), reduction="sum"
        )
        localization = box_regression_loss(
            self.box_reg_loss_type,
            self.box2box_transform,
            cat(pred_anchor_deltas, dim=1).flatten(0, 1)[positive],
            every[positive % len(every)],
            torch.cat(gt_boxes),
            self.smooth_l1_beta,
        )
        losses = {"loss_rpn_cls": objectness, "loss_rpn_loc": localization.sum()}
        normalizer = self.batch_size_per_image * num_images
        return {name: loss / normalizer * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    _propose = base_method(RPN.predict_proposals, "_propose")

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The best boxes of each image, without those that a better one of their level overlaps.

        Args:
            anchors: one for each of L feature maps.
            pred_objectness_logits: L times (N, A_l).
            pred_anchor_deltas: L times (N, A_l, 4).
            image_sizes: height and width of each image in pixels.

        Returns:
            N Instances with `proposal_boxes`, clipped to the image, and `objectness_logits`, falling.

        Raises:
            FloatingPointError: in training, a box or score is infinite or NaN.
        """
        if torch.jit.is_scripting():
            return self._propose(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
        else:
            if torch.jit.is_tracing():
                # A trace cannot hold a number of proposals that the host has read.
                return self._propose(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
            with torch.no_grad():
                return self._select(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)

    @torch.jit.unused
    def _select(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """As `predict_proposals`."""
        boxes, scores, levels = self._best_of_levels(anchors, logits, deltas)
        finite = boxes.isfinite().all(dim=2) & scores.isfinite()
        boxes = torch.stack([clipped(one, size) for one, size in zip(boxes, image_sizes)])
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(dim=2)
        valid = finite & (width > self.min_box_size) & (height > self.min_box_size)
        # Without area they overlap nothing.
        boxes = boxes.masked_fill(~valid[..., None], 0.0)
        keep = valid & nms_segments(boxes.flatten(0, 1), levels, self.nms_thresh).view_as(valid)
        # A score of -inf sorts the others behind.
        scores, order = scores.masked_fill(~keep, -torch.inf).sort(dim=1, descending=True, stable=True)
        *counts, infinite = torch.cat([keep.sum(dim=1), (~finite).sum().view(1)]).tolist()
        if infinite and self.training:
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN. Training has diverged.")
        results = []
        for i, count in enumerate(counts):
            number = min(count, self.post_nms_topk[self.training])
            results.append(
                Instances(
                    image_sizes[i],
                    proposal_boxes=Boxes(boxes[i, order[i, :number]]),
                    objectness_logits=scores[i, :number],
                )
            )
        return results

    @torch.jit.unused
    def _best_of_levels(
        self, anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, R, 4) and scores (N, R), level after level, and where each level of each image starts."""
        boxes, scores = [], []
        for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas):
            number = min(level_logits.shape[1], self.pre_nms_topk[self.training])
            best, index = level_logits.topk(number, dim=1)
            chosen = level_anchors.tensor[index.flatten()]
            moved = level_deltas.gather(1, index[..., None].expand(-1, -1, level_deltas.shape[2]))
            moved = self.box2box_transform.apply_deltas(moved.flatten(0, 1), chosen)
            boxes.append(moved.unflatten(0, index.shape))
            scores.append(best)
        ends = torch.tensor([one.shape[1] for one in scores]).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        levels = (torch.arange(len(scores[0]))[:, None] * ends[-1] + starts).flatten()
        levels = torch.cat([levels, ends[-1:] * len(scores[0])])
        return (
            torch.cat(boxes, dim=1),
            torch.cat(scores, dim=1),
            levels.to(scores[0].device, non_blocking=True),
        )


def clipped(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(..., 4) xyxy within an image of that height and width."""
    height, width = image_size
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack(
        [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1
    )
