"""Anchors as torchvision places them."""

from __future__ import annotations

import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator
from torch import Tensor


@ANCHOR_GENERATOR_REGISTRY.register()
class RoundedAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's anchors with torchvision's two roundings, for weights that were trained with them.

    Corners of the cell anchors are whole pixels, and the distance of two anchors is the padded image's size
    floor-divided by the feature map's: 61 and not 64 pixels on P6 of an 800-pixel image, where the pyramid
    rounds 12.5 up to 13. Arguments as DefaultAnchorGenerator's; offset is 0 in torchvision.
    """

    def generate_cell_anchors(self, sizes, aspect_ratios) -> Tensor:
        """(len(sizes) * len(aspect_ratios), 4) xyxy around 0, image pixels."""
        return super().generate_cell_anchors(sizes, aspect_ratios).round()

    def _grid_anchors(self, grid_sizes: list[list[int]]) -> list[Tensor]:
        height, width = (n * self.strides[0] for n in grid_sizes[0])
        anchors = []
        for (rows, columns), cells in zip(grid_sizes, self.cell_anchors):
            steps = ((columns, width // columns), (rows, height // rows))
            x, y = ((torch.arange(n, device=cells.device) + self.offset) * step for n, step in steps)
            y, x = torch.meshgrid(y.to(cells), x.to(cells), indexing="ij")
            shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
            anchors.append((shifts + cells).view(-1, 4))
        return anchors
