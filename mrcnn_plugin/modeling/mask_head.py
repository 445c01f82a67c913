"""Mask heads. Each predicts one M x M mask for each RoI, of the class that it belongs to."""

from __future__ import annotations

import itertools

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
)
from detectron2.structures import Instances
from fvcore.nn import weight_init
from torch import Tensor, nn

from .mask_loss import annotated, sigmoid_mask_loss, softmax_mask_loss
from .roi_linear import RoILinear


def class_logits(x: Tensor, predictor: nn.Conv2d, classes: Tensor) -> Tensor:
    """One class's output of a 1x1 convolution for each RoI, without computing those of the others.

    A 1x1 convolution is a matrix product at each pixel, so a class's output needs that class's row of the
    weight alone: the numbers are those of `predictor(x)[arange(K), classes]` at 1 / num_classes of the work
    and memory.

    Args:
        x: (K, C, M, M).
        predictor: 1x1 convolution of C to num_classes channels.
        classes: int64 (K,) in [0, num_classes).

    Returns:
        (K, 1, M, M) logits.
    """
    return selected_logits(x, predictor.weight, predictor.bias, classes)


def selected_logits(x: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor) -> Tensor:
    """`class_logits` by the weight (num_classes, C, 1, 1) and bias (num_classes,) of the convolution."""
    rows = weight.flatten(1)[classes].unsqueeze(1)  # (K, 1, C)
    if bias is None:
        logits = torch.bmm(rows, x.flatten(2))
    else:
        logits = torch.baddbmm(bias[classes][:, None, None], rows, x.flatten(2))
    return logits.unflatten(2, x.shape[2:])


class _OneMaskPerRoI(BaseMaskRCNNHead):
    """Forward of the heads that predict only the masks that are used."""

    def masks_of(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        """(K, ...) RoI features and the classes of each image's RoIs -> (K, 1, M, M) logits."""
        raise NotImplementedError

    def forward(self, x: Tensor, instances: list[Instances]):
        """Losses in training, `instances` with `pred_masks` in inference.

        Args:
            x: (K, C, H, W) RoI features.
            instances: N Instances, K in all. In training, foreground proposals with `proposal_boxes`,
                `gt_classes` and `gt_masks` (images that lack masks are left out of the loss). In inference,
                detections with `pred_classes`.

        Returns:
            {"loss_mask": scalar}, or `instances` with `pred_masks`, probabilities of shape (K_i, 1, M, M).
        """
        if self.training:
            x, instances = annotated(x, instances)
            logits = self.masks_of(x, [image.gt_classes for image in instances])
            return {"loss_mask": sigmoid_mask_loss(logits, instances, self.vis_period) * self.loss_weight}
        else:
            mask_rcnn_inference(self.masks_of(x, [image.pred_classes for image in instances]), instances)
            return instances


@ROI_MASK_HEAD_REGISTRY.register()
class FCNMaskHead(_OneMaskPerRoI, MaskRCNNConvUpsampleHead):
    """The paper's FCN mask branch (Figure 4): 3x3 convolutions, a 2x2 deconvolution, a 1x1 predictor.

    Arguments, parameters and results are those of Detectron2's MaskRCNNConvUpsampleHead; with
    `num_classes=1` it is class-agnostic. Only the classes in question are predicted (`class_logits`).
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, conv_dims: list[int], **kwargs) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **kwargs)
        self.predictor_index = list(self).index(self.predictor)

    def layers(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, num_classes, 2H, 2W): the logits of every class."""
        return self.predictor(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, C', 2H, 2W): what the predictor sees."""
        # TorchScript unrolls the loop; it can compare numbers, but not modules.
        for i, layer in enumerate(self):
            if i != self.predictor_index:
                x = layer(x)
        return x

    def masks_of(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        return self.predict(self.features(x), classes)

    def predict(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        """(K, C', 2H, 2W) and the classes of each image's RoIs -> (K, 1, 2H, 2W): logits of those alone."""
        if self.predictor.out_channels == 1 or len(classes) == 0:
            return self.predictor(x)[:, :1]
        return selected_logits(x, self.predictor.weight, self.predictor.bias, torch.cat(classes))


@ROI_MASK_HEAD_REGISTRY.register()
class SoftmaxMaskHead(FCNMaskHead):
    """The paper's Table 2b: classes compete for each pixel, through a softmax and a multinomial loss.

    The predictor has a channel more than FCNMaskHead's, the background, which comes last.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, **kwargs) -> None:
        super().__init__(input_shape, num_classes=num_classes + 1, **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        if cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(
                "SoftmaxMaskHead is per class: ROI_MASK_HEAD.CLS_AGNOSTIC_MASK must be False, got True"
            )
        return super().from_config(cfg, input_shape)

    def forward(self, x: Tensor, instances: list[Instances]):
        """As FCNMaskHead; `pred_masks` are the softmax probabilities of the predicted class."""
        if self.training:
            x, instances = annotated(x, instances)
            return {"loss_mask": softmax_mask_loss(self.layers(x), instances) * self.loss_weight}
        else:
            probabilities = self.layers(x).softmax(dim=1)
            classes = torch.cat([image.pred_classes for image in instances])
            rows = torch.arange(classes.shape[0], device=classes.device)
            masks = probabilities[rows, classes].unsqueeze(1)
            sizes = [image.pred_classes.shape[0] for image in instances]
            for image, image_masks in zip(instances, masks.split(sizes)):
                image.pred_masks = image_masks
            return instances


@ROI_MASK_HEAD_REGISTRY.register()
class MLPMaskHead(_OneMaskPerRoI):
    """The fully connected mask branch of the paper's Table 2e: layers, then num_classes x M x M logits."""

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, num_classes: int, fc_dims: list[int], mask_size: int = 28, **kwargs
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the RoI features.
            num_classes: foreground classes; 1 is class-agnostic.
            fc_dims: widths of the hidden layers, at least one.
            mask_size: M, the side of the predicted mask.
        """
        super().__init__(**kwargs)
        if not fc_dims:
            raise ValueError("fc_dims must hold the width of at least one hidden layer, got []")
        self.num_classes, self.mask_size = num_classes, mask_size
        hidden: list[nn.Linear] = [RoILinear(input_shape, fc_dims[0])]
        hidden += [nn.Linear(*widths) for widths in itertools.pairwise(fc_dims)]
        for i, layer in enumerate(hidden, 1):
            self.add_module(f"mask_fc{i}", layer)
            weight_init.c2_xavier_fill(layer)
        self._hidden = hidden
        self.predictor = nn.Linear(fc_dims[-1], num_classes * mask_size**2)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "fc_dims": [head.get("FC_DIM", 1024)] * head.get("NUM_FC", 2),
            "mask_size": head.get("MASK_SIZE", 28),
        }

    def layers(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, num_classes, M, M): the logits of every class."""
        for layer in self._hidden:
            x = layer(x).relu()
        return self.predictor(x).view(-1, self.num_classes, self.mask_size, self.mask_size)

    def masks_of(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        # Gathering M * M rows of the weight for each RoI would move more than all classes' masks do.
        logits = self.layers(x)
        if self.num_classes == 1 or not classes:
            return logits[:, :1]
        index = torch.cat(classes)
        return logits[torch.arange(index.shape[0], device=index.device), index].unsqueeze(1)
