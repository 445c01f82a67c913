"""Meta architecture: Mask R-CNN that hands its RoI heads the semantic labels of the images."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor

from mrcnn_plugin.modeling import MaskRCNN


class LabelledImageList(ImageList):
    """Padded images with semantic labels."""

    def __init__(
        self, tensor: Tensor, image_sizes: list[tuple[int, int]], sem_seg: Tensor | None = None
    ) -> None:
        """
        Args:
            tensor: (N, C, H, W).
            image_sizes: height and width of each image without its padding.
            sem_seg: int64 (N, H, W), padded as the images are; None where no image has labels.
        """
        super().__init__(tensor, image_sizes)
        self.sem_seg = sem_seg


@META_ARCH_REGISTRY.register()
class HybridTaskCascade(MaskRCNN):
    """MaskRCNN for data with semantic labels: the inputs' `sem_seg`, as Detectron2's DatasetMapper gives it.

    Images without `sem_seg` train everything but the semantic branch.
    """

    @configurable
    def __init__(self, *, ignore_value: int = 255, **kwargs) -> None:
        """
        Args:
            ignore_value: label of padding, and of images that have none.
            kwargs: as MaskRCNN.
        """
        super().__init__(**kwargs)
        self.ignore_value = ignore_value

    def preprocess_image(self, batched_inputs: list[dict]) -> LabelledImageList:
        """Normalizes, pads and batches the images and, in training, their `sem_seg` (H_i, W_i) if any."""
        images = super().preprocess_image(batched_inputs)
        labels = [image.get("sem_seg") for image in batched_inputs]
        sem_seg = None
        if self.training and any(label is not None for label in labels):
            sem_seg = torch.full(
                (len(images), *images.tensor.shape[-2:]), self.ignore_value, device=images.tensor.device
            )
            for row, label, size in zip(sem_seg, labels, images.image_sizes):
                if label is not None:
                    if tuple(label.shape) != tuple(size):
                        raise ValueError(
                            f"sem_seg must have the size of its image {tuple(size)}, got {tuple(label.shape)}"
                        )
                    row[: size[0], : size[1]] = label.to(row.device)
        return LabelledImageList(images.tensor, images.image_sizes, sem_seg)
