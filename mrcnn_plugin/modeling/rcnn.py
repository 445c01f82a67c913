"""Meta architecture: Detectron2's GeneralizedRCNN with a choice of how masks are returned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import Tensor, nn

from mrcnn_plugin.ops import encode_masks, paste_masks

from .base_method import base_method
from .rle_masks import RLEMasks
from .rpn import clipped


def _set_bitmasks(instances: Instances, masks: Tensor, threshold: float) -> None:
    instances.pred_masks = paste_masks(masks, instances.pred_boxes.tensor, instances.image_size, threshold)


def _set_rles(instances: Instances, masks: Tensor, threshold: float) -> None:
    boxes = instances.pred_boxes.tensor
    instances.pred_masks_rle = RLEMasks(encode_masks(masks, boxes, instances.image_size, threshold))


def _set_raw(instances: Instances, masks: Tensor, threshold: float) -> None:
    instances.pred_masks = masks


MASK_FORMATS = {"bitmask": _set_bitmasks, "rle": _set_rles, "raw": _set_raw}


@META_ARCH_REGISTRY.register()
class MaskRCNN(GeneralizedRCNN):
    """Backbone, proposals, RoI heads: GeneralizedRCNN, with masks in the form that its user needs."""

    @configurable
    def __init__(self, *, mask_format: str = "bitmask", mask_threshold: float = 0.5, **kwargs) -> None:
        """
        Args:
            mask_format: what the results hold for masks.
                "bitmask": `pred_masks`, bool (K, H, W) at the resolution asked for; Detectron2's contract.
                "rle": `pred_masks_rle`, RLEMasks of the same pixels, made without them.
                "raw": `pred_masks`, float (K, M, M) probabilities within `pred_boxes`.
            mask_threshold: probability in [0, 1] from which a pixel belongs to the instance.
            kwargs: as GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        if mask_format not in MASK_FORMATS:
            raise ValueError(f"mask_format must be one of {sorted(MASK_FORMATS)}, got {mask_format!r}")
        self.mask_format = mask_format
        self.mask_threshold = mask_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg),
            "mask_format": head.get("MASK_FORMAT", "bitmask"),
            "mask_threshold": head.get("MASK_THRESHOLD", 0.5),
        }

    _detect = base_method(GeneralizedRCNN.inference, "_detect")

    def inference(
        self,
        batched_inputs: list[dict[str, Tensor]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """As GeneralizedRCNN.inference, but for the form of the masks.

        Returns:
            One {"instances": Instances} per image, at its "height" x "width", with `pred_boxes`, `scores`,
            `pred_classes`, masks as `mask_format` says, `pred_keypoints` (K, num_keypoints, 3). With
            `do_postprocess=False` the Instances at the network's resolution, `pred_masks` (K, 1, M, M); that
            is all that a scripted model can do, as Detectron2's.
        """
        results = self._detect(batched_inputs, detected_instances, False)
        if torch.jit.is_scripting():
            assert not do_postprocess, "a scripted model pastes no masks: do_postprocess must be False"
            return results
        else:
            if not do_postprocess:
                return results
            return [
                {"instances": self.postprocess(result, *output_size(image))}
                for result, image in zip(results, batched_inputs)
            ]

    def postprocess(self, results: Instances, height: int, width: int) -> Instances:
        """Scales one image's raw results to height x width pixels; empty boxes are dropped."""
        fields = results.get_fields()
        masks = fields.pop("pred_masks", None)
        # Under another name Detectron2 filters the masks with the rest and leaves the pasting to us.
        hidden = {} if masks is None else {"roi_masks": masks}
        results = _rescaled(Instances(results.image_size, **fields, **hidden), height, width)
        if masks is not None:
            masks = results.roi_masks
            masks = masks.tensor if isinstance(masks, ROIMasks) else masks[:, 0]
            results.remove("roi_masks")
            MASK_FORMATS[self.mask_format](results, masks, self.mask_threshold)
        return results


def _rescaled(results: Instances, height: int, width: int) -> Instances:
    """Detectron2's `detector_postprocess` of results without `pred_masks`; one host sync."""
    if torch.jit.is_tracing():
        return detector_postprocess(results, height, width)
    scale_x, scale_y = width / results.image_size[1], height / results.image_size[0]
    fields = results.get_fields()
    boxes = fields["pred_boxes"].clone()
    boxes.scale(scale_x, scale_y)
    boxes = Boxes(clipped(boxes.tensor, (height, width)))
    kept = boxes.nonempty().nonzero()[:, 0]
    results = Instances((height, width), **fields | {"pred_boxes": boxes})[kept]
    if results.has("pred_keypoints"):
        results.pred_keypoints[:, :, 0] *= scale_x
        results.pred_keypoints[:, :, 1] *= scale_y
    return results


@contextlib.contextmanager
def returning_masks_as(model: nn.Module, mask_format: str) -> Iterator[None]:
    """Lets a MaskRCNN return its masks in this format for a while; other models are left as they are.

    The MaskRCNN may be one with test-time augmentation.
    """
    model = model.model if isinstance(model, GeneralizedRCNNWithTTA) else model
    if not isinstance(model, MaskRCNN):
        yield
        return
    before, model.mask_format = model.mask_format, mask_format
    try:
        yield
    finally:
        model.mask_format = before


def output_size(image: dict) -> tuple[int, int]:
    """Height and width that an input asks its results to have: by default those of its tensor."""
    height, width = image["image"].shape[-2:]
    return image.get("height", height), image.get("width", width)
