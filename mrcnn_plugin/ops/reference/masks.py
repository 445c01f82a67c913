"""Pasting masks into their boxes, and run-length encoding them: plain PyTorch, one instance at a time."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Twin of `torch.ops.mrcnn_plugin.paste_masks`: (K, Mh, Mw) and (K, 4), float32 -> (K, H, W)."""
    out = masks.new_zeros((len(masks), height, width), dtype=torch.bool if threshold >= 0 else torch.uint8)
    for i in range(len(masks)):
        x0, y0, x1, y1 = paste_region(boxes[i].tolist(), height, width)
        if x0 < x1 and y0 < y1:
            values = paste_values(masks[i], boxes[i], (x0, y0, x1, y1))
            out[i, y0:y1, x0:x1] = values >= threshold if threshold >= 0 else soft_pixels(values)
    return out


def encode_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twin of `torch.ops.mrcnn_plugin.encode_masks`: codes end to end, their offsets, areas, xywh boxes."""
    codes, areas, tight = [], [], []
    for i in range(len(masks)):
        pasted = paste_masks(masks[i : i + 1], boxes[i : i + 1], height, width, threshold)[0]
        rle = coco_mask.encode(np.asfortranarray(pasted.cpu().numpy().astype(np.uint8)))
        codes.append(np.frombuffer(rle["counts"], dtype=np.uint8))
        areas.append(int(coco_mask.area(rle)))
        tight.append(coco_mask.toBbox(rle))
    counts = torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *codes]))
    offsets = torch.tensor([0, *np.cumsum([len(code) for code in codes])], dtype=torch.int64)
    boxes_xywh = torch.from_numpy(np.array(tight, dtype=np.int64).reshape(-1, 4))
    return counts, offsets, torch.tensor(areas, dtype=torch.int64), boxes_xywh


def paste_region(box: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels x0, y0, x1, y1 (ends excluded) that are computed: the box's, and one more on each side."""
    if any(np.isnan(box)):
        return 0, 0, 0, 0
    x0, y0 = (np.clip(np.floor(low) - 1, 0, size) for low, size in zip(box[:2], (width, height)))
    x1, y1 = (np.clip(np.ceil(high) + 1, 0, size) for high, size in zip(box[2:], (width, height)))
    return int(x0), int(y0), int(x1), int(y1)


def paste_values(mask: Tensor, box: Tensor, region: tuple[int, int, int, int]) -> Tensor:
    """(Mh, Mw) mask, (4,) xyxy box -> (y1 - y0, x1 - x0) float32 values of the region's pixels."""
    x0, y0, x1, y1 = region
    rows, top, bottom = _axis(y0, y1, box[1], box[3], mask.shape[0])
    columns, left, right = _axis(x0, x1, box[0], box[2], mask.shape[1])
    framed = torch.nn.functional.pad(mask, (2, 2, 2, 2))
    rows, columns = rows[:, None], columns[None]
    value = framed[rows, columns] * (top[:, None] * left)
    value = _fma(framed[rows, columns + 1], top[:, None] * right, value)
    value = _fma(framed[rows + 1, columns], bottom[:, None] * left, value)
    return _fma(framed[rows + 1, columns + 1], bottom[:, None] * right, value)


def soft_pixels(values: Tensor) -> Tensor:
    """Values in [0, 1] -> uint8 0..255, truncated; beyond, and NaN, clamped."""
    return (values * 255).nan_to_num(0.0).clamp(0, 255).to(torch.uint8)


def _axis(begin: int, end: int, low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index into the mask framed by two cells, and the weights of that cell and of the next one."""
    pixels = torch.arange(begin, end, dtype=torch.float32, device=low.device) + 0.5
    grid = (pixels - low) / (high - low) * 2 - 1
    location = _fma(grid + 1, grid.new_tensor(size / 2), grid.new_tensor(-0.5))
    far = location - location.floor()
    cell = location.floor().nan_to_num(-2.0).clamp(-2, size).long()
    return cell + 2, 1 - far, far


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of float32, rounded once (the product is exact in float64)."""
    return (a.double() * b.double() + c.double()).float()
