"""Masks and boxes that the tests of paste_masks and encode_masks share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

ODD = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 3e38, -3e38, 1e-39, 0.0]


def blobs(n: int, size: int = 28, seed: int = 0) -> Tensor:
    """(n, size, size) smooth probabilities, high in the middle: what a trained mask head gives."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 1, 5, 5, generator=generator)
    field = torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")[:, 0]
    axis = torch.linspace(-1, 1, size)
    return torch.sigmoid(4 * (0.5 * field + 1.2 - 2 * (axis[:, None] ** 2 + axis**2)))


def random_boxes(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(n, 4) xyxy of all sizes, some reaching out of the image."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=generator) * torch.tensor([width, height])
    extent = torch.exp(torch.rand(n, 2, generator=generator) * 4 - 3.5) * torch.tensor([width, height])
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=1)


@st.composite
def paste_inputs(draw, odd: bool = True) -> tuple[Tensor, Tensor, tuple[int, int], float]:
    """Masks, boxes, image shape, threshold; with `odd`, boxes and masks that no sane model gives."""
    n = draw(st.integers(0, 4))
    mask_height, mask_width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    masks = torch.rand(n, mask_height, mask_width, generator=generator)
    if draw(st.booleans()):
        masks = (masks > 0.4).float()
    coordinate = st.floats(-30, 90, width=32)
    if odd:
        coordinate = coordinate | st.sampled_from(ODD)
    boxes = torch.tensor([draw(st.tuples(*[coordinate] * 4)) for _ in range(n)]).reshape(n, 4)
    if draw(st.booleans()):  # most random corners are in the wrong order
        low, high = boxes[:, :2], boxes[:, 2:]
        boxes = torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=1)
    if odd and n and draw(st.booleans()):
        for value in draw(st.lists(st.sampled_from([*ODD, -1.0, 2.0]), max_size=6)):
            masks.view(-1)[int(torch.randint(masks.numel(), (), generator=generator))] = value
    threshold = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    return masks, boxes, (height, width), threshold
