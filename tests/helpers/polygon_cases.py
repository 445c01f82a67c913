"""Polygons and boxes that the tests of rasterize_polygons share."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures.masks import rasterize_polygons_within_box


def star(rng: np.random.Generator, points: int) -> np.ndarray:
    angle = np.sort(rng.uniform(0, 2 * np.pi, points))
    return 100 + 60 * np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.3, 1, (points, 1))


def polygon(rng: np.random.Generator, kind: int) -> np.ndarray:
    """One polygon around a 200-pixel image: self-intersecting, star-shaped, on whole pixels, with repeated
    points, without area, mostly outside, smaller than a pixel."""
    points = int(rng.integers(3, 30))
    makers = [
        lambda: rng.uniform(-50, 250, (points, 2)),
        lambda: star(rng, points),
        lambda: rng.integers(-20, 220, (points, 2)),
        lambda: np.repeat(rng.uniform(0, 200, (points // 3 + 1, 2)), 3, axis=0),
        lambda: np.stack([rng.uniform(0, 200, points), np.full(points, rng.uniform(0, 200))], 1),
        lambda: rng.uniform(-600, 700, (points, 2)),
        lambda: 100 + rng.uniform(-0.5, 0.5, (points, 2)),
    ]
    return np.asarray(makers[kind % len(makers)](), dtype=np.float64).ravel()


def instances(n: int, seed: int = 0) -> tuple[list[list[np.ndarray]], torch.Tensor]:
    """n instances of 0 to 3 polygons and a box each; some boxes degenerate, some on whole pixels."""
    rng = np.random.default_rng(seed)
    polygons = [[polygon(rng, i) for _ in range(rng.integers(1, 4))] for i in range(n)]
    polygons[::97] = [[] for _ in polygons[::97]]
    corner, side = rng.uniform(0, 150, (n, 2)), rng.uniform(0.5, 150, (n, 2))
    corner[::5], side[::5] = corner[::5].round(), side[::5].round()
    side[1::40, 0] = rng.uniform(-1, 0.2, len(side[1::40]))
    return polygons, torch.tensor(np.concatenate([corner, corner + side], axis=1), dtype=torch.float32)


def detectron2_masks(polygons, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
    masks = [rasterize_polygons_within_box(p, b.numpy(), mask_size) for p, b in zip(polygons, boxes)]
    return torch.stack(masks).bool()
