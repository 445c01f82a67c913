"""Scenes of textured shapes or stick figures, with COCO annotations of what is visible of them.

A scene is laid out in vector form, drawn at SUBPIXELS times the resolution and reduced: the pixels are
anti-aliased and the polygons exact to a fraction of a pixel. Coordinates are COCO's: x right, y down, the
image covers [0, width] x [0, height], so that the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pycocotools.mask as mask_util

from .figure import KEYPOINT_NAMES, Part, disc, draw_figure

SHAPES = ("circle", "square", "triangle", "star")
SUBPIXELS = 4
# An instance of which less is visible (fraction of its area in the image; pixels) is taken out of the scene.
MIN_VISIBLE_FRACTION, MIN_VISIBLE_AREA = 0.25, 24.0
BACKGROUND = 0


@dataclass(eq=False)
class Thing:
    """One object of a scene: an instance, a crowd region, or (category None) an unlabelled occluder.

    parts: drawn in this order; keypoints: (17, 2) float, image pixels, or None; hidden: (17,) bool,
    keypoints that the thing itself covers.
    """

    parts: list[Part]
    category: str | None
    crowd: bool = False
    keypoints: np.ndarray | None = None
    hidden: np.ndarray | None = None


@dataclass(eq=False)
class Sample:
    """image: (size, size, 3) uint8 RGB. annotations: COCO annotation dicts, without ids, each with the
    additional key `category` (a name). masks: one (size, size) bool per annotation, the drawn pixels."""

    image: np.ndarray
    annotations: list[dict] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)


def noise(rng: np.random.Generator, size: int, cells: tuple[int, ...], channels: int) -> np.ndarray:
    """(size, size, channels) float32, about [-1, 1]: random grids of `cells` cells a side, summed."""
    total = np.zeros((size, size, channels), np.float32)
    for cell in cells:
        grid = rng.uniform(-1, 1, (min(cell, size),) * 2 + (channels,)).astype(np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR).reshape(total.shape)
    return total / np.sqrt(len(cells))


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32 in [0, 255]: coloured clouds with luminance grain."""
    color = rng.uniform(50, 205, 3).astype(np.float32)
    clouds = noise(rng, size, (3, 7), 3) * rng.uniform(8, 28)
    grain = noise(rng, size, (size // 4, size), 1) * rng.uniform(4, 22)
    return color + clouds + grain


def contrasting_color(rng: np.random.Generator, base: np.ndarray, distance: float = 75.0) -> np.ndarray:
    """A random RGB colour (3,) at least `distance` away from `base` (3,)."""
    while True:
        color = rng.uniform(10, 245, 3)
        if np.linalg.norm(color - base) >= distance:
            return color


def shape_polygon(rng: np.random.Generator, category: str, center: np.ndarray, radius: float) -> np.ndarray:
    """Outline of a randomly rotated shape that fits a circle of `radius` pixels: (P, 2)."""
    if category == "circle":
        return disc(center, radius, 48)
    start = rng.uniform(0, 2 * np.pi)
    corners = {"square": 4, "triangle": 3, "star": 10}[category]
    angles = start + np.arange(corners) * 2 * np.pi / corners
    radii = np.full(corners, radius)
    if category == "triangle":
        angles = angles + rng.uniform(-0.25, 0.25, corners)
    elif category == "star":
        radii[1::2] *= rng.uniform(0.38, 0.5)
    return center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def shapes_scene(rng: np.random.Generator, size: int, base: np.ndarray) -> list[Thing]:
    """Up to six shapes, sometimes none; in one image of eight a crowd of tiny ones. Bottom to top."""
    things = []
    for _ in range(rng.choice(7, p=[0.03, 0.12, 0.2, 0.22, 0.19, 0.14, 0.1])):
        category = SHAPES[rng.integers(len(SHAPES))]
        center = rng.uniform(0.06, 0.94, 2) * size
        polygon = shape_polygon(rng, category, center, log_uniform(rng, 0.055, 0.23) * size)
        things.append(Thing([Part(polygon, contrasting_color(rng, base))], category))
    if rng.random() < 0.125:
        things.insert(rng.integers(len(things) + 1), shapes_crowd(rng, size, base))
    return things


def shapes_crowd(rng: np.random.Generator, size: int, base: np.ndarray) -> Thing:
    """A dense cluster of tiny overlapping shapes of one class."""
    category = SHAPES[rng.integers(len(SHAPES))]
    middle, spread = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0.05, 0.09, 2) * size
    parts = []
    for center in rng.normal(middle, spread, (int(rng.integers(14, 30)), 2)):
        polygon = shape_polygon(rng, category, center, rng.uniform(0.02, 0.035) * size)
        parts.append(Part(polygon, contrasting_color(rng, base)))
    return Thing(parts, category, crowd=True)


def keypoints_scene(rng: np.random.Generator, size: int, base: np.ndarray) -> list[Thing]:
    """One to three figures, parts of which may lie outside the image or under unlabelled shapes."""
    count = int(rng.choice(3, p=[0.5, 0.35, 0.15])) + 1
    things = []
    for _ in range(count):
        height = log_uniform(rng, 0.4, 0.95 if count < 3 else 0.7) * size
        margin = 0.12 if rng.random() < 0.3 else 0.3
        center = rng.uniform(margin, 1 - margin, 2) * size
        things.append(figure_thing(rng, center, height, base))
        if rng.random() < 0.35:
            things.append(occluder(rng, center, height, base))
    if rng.random() < 0.06:
        things.insert(0, figures_crowd(rng, size, base))
    return things


def figure_thing(rng: np.random.Generator, center: np.ndarray, height: float, base: np.ndarray) -> Thing:
    colors = np.stack([contrasting_color(rng, base) for _ in range(4)])
    colors[3] = np.clip(rng.normal((225, 180, 150), 15), 0, 255)
    figure = draw_figure(rng, center, height, colors, angle=np.radians(rng.normal(0, 8)))
    return Thing(figure.parts, "figure", keypoints=figure.keypoints, hidden=figure.hidden)


def occluder(rng: np.random.Generator, center: np.ndarray, height: float, base: np.ndarray) -> Thing:
    """An unlabelled shape over a part of a figure."""
    at = center + rng.uniform(-0.4, 0.4, 2) * height
    polygon = shape_polygon(rng, SHAPES[rng.integers(2)], at, rng.uniform(0.08, 0.18) * height)
    return Thing([Part(polygon, contrasting_color(rng, base))], None)


def figures_crowd(rng: np.random.Generator, size: int, base: np.ndarray) -> Thing:
    """A group of small figures, side by side."""
    middle = rng.uniform(0.25, 0.75, 2) * size
    parts = []
    for offset in rng.normal(0, (0.12 * size, 0.03 * size), (int(rng.integers(5, 10)), 2)):
        parts += figure_thing(rng, middle + offset, rng.uniform(0.15, 0.2) * size, base).parts
    return Thing(parts, "figure", crowd=True)


SCENES = {"shapes": shapes_scene, "keypoints": keypoints_scene}


def draw_sample(kind: str, size: int, seed: int | np.random.SeedSequence) -> Sample:
    """Draws one image and annotates it.

    Annotations hold bbox (xywh), area, iscrowd, segmentation (polygons, for crowds uncompressed RLE),
    category (name) and, for figures, keypoints (51 numbers, COCO's pixel indices) and num_keypoints.

    Args:
        kind: "shapes" or "keypoints".
        size: side of the image in pixels, at least 32.
        seed: the same seed gives the same sample.

    Raises:
        ValueError: another kind or a smaller size.
    """
    if kind not in SCENES:
        raise ValueError(f"kind must be one of {', '.join(SCENES)}, got {kind!r}")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    rng = np.random.default_rng(seed)
    canvas = background(rng, size)
    things = SCENES[kind](rng, size, canvas.mean((0, 1)))
    things, owner, colors = compose(things, size)
    image = paint(rng, canvas, owner, colors)
    sample = Sample(image)
    for index, thing in enumerate(things, 1):
        if thing.category is not None:
            annotation, mask = annotate(thing, owner == index, size)
            sample.annotations.append(annotation)
            sample.masks.append(mask)
    return sample


def fill(parts: list[Part], size: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Draws parts: the window (rows, columns) of sub-pixels that holds them, covered (h, w) bool and colours
    (h, w, 3) uint8 in it."""
    # Sub-pixel i covers [i, i + 1), so a coordinate x belongs to sub-pixel x - 0.5 in OpenCV's terms.
    polygons = [np.round(part.polygon * SUBPIXELS - 0.5).astype(np.int32) for part in parts]
    points = np.concatenate(polygons).clip(0, SUBPIXELS * size - 1)
    (x0, y0), (x1, y1) = points.min(0), points.max(0) + 1
    window = slice(y0, y1), slice(x0, x1)
    shape = tuple(s.stop - s.start for s in window)
    covered, colors = np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.uint8)
    for polygon, part in zip(polygons, parts):
        cv2.fillPoly(covered, [polygon - (x0, y0)], 1)
        cv2.fillPoly(colors, [polygon - (x0, y0)], part.color.tolist())
    return window, covered.astype(bool), colors


def compose(things: list[Thing], size: int) -> tuple[list[Thing], np.ndarray, np.ndarray]:
    """Lay things over one another, taking out those of which next to nothing remains visible.

    things: bottom to top. Returns those kept; owner (S, S) uint8, which of them (from 1; 0 background) each
    sub-pixel shows; colours (S, S, 3) uint8.
    """
    side = SUBPIXELS * size
    owner, colors = np.zeros((side, side), np.uint8), np.zeros((side, side, 3), np.uint8)
    kept: list[Thing] = []
    for thing in reversed(things):
        window, covered, own_colors = fill(thing.parts, size)
        visible = covered & (owner[window] == BACKGROUND)
        area = np.count_nonzero(visible)
        if area < max(MIN_VISIBLE_FRACTION * np.count_nonzero(covered), MIN_VISIBLE_AREA * SUBPIXELS**2):
            continue
        kept.append(thing)
        owner[window][visible] = len(kept)
        colors[window][visible] = own_colors[visible]
    return kept, owner, colors


def paint(rng: np.random.Generator, canvas: np.ndarray, owner: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blend the drawn things, each with a texture of its own strength, over canvas (size, size, 3)."""
    size = len(canvas)
    foreground = (owner != BACKGROUND).astype(np.float32)
    alpha = reduce(foreground, size)[..., None]
    strength = rng.uniform(2, 16, 256).astype(np.float32)
    strength[BACKGROUND] = 0
    texture = noise(rng, size, (size // 10, size // 3, size), 1) * reduce(strength[owner], size)[..., None]
    # `colors` is black where there is no thing, so its reduction is already multiplied by alpha.
    image = reduce(colors.astype(np.float32), size) + canvas * (1 - alpha) + texture
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def reduce(image: np.ndarray, size: int) -> np.ndarray:
    """Mean over the sub-pixels of each pixel."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def annotate(thing: Thing, visible: np.ndarray, size: int) -> tuple[dict, np.ndarray]:
    """COCO annotation of a thing of which the sub-pixels visible (S, S) bool are seen, and its pixels."""
    mask = reduce(visible.astype(np.float32), size) >= 0.5
    segmentation: dict | list[list[float]]
    if thing.crowd:
        segmentation = uncompressed_rle(mask)
        rle = mask_util.frPyObjects(segmentation, size, size)
    else:
        segmentation = [(p / SUBPIXELS).round(2).ravel().tolist() for p in mask_to_polygons(visible)]
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, size, size))
    ys, xs = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    x0, y0, x1, y1 = np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]) / SUBPIXELS
    annotation = {
        "category": thing.category,
        "iscrowd": int(thing.crowd),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": float(mask_util.area(rle)),
        "segmentation": segmentation,
    }
    if thing.category == "figure":
        annotation |= annotate_keypoints(thing, visible, size)
    return annotation, mask


def annotate_keypoints(thing: Thing, visible: np.ndarray, size: int) -> dict:
    """COCO keypoints: visibility 2 seen, 1 covered, 0 (with x = y = 0) outside the image or unlabelled."""
    triplets = np.zeros((len(KEYPOINT_NAMES), 3), np.int64)
    if thing.keypoints is not None and thing.hidden is not None:
        inside = ((thing.keypoints >= 0) & (thing.keypoints < size)).all(1)
        x, y = (thing.keypoints[inside] * SUBPIXELS).astype(np.int64).T
        seen = visible[y, x] & ~thing.hidden[inside]
        # COCO stores the index of the pixel; Detectron2's loader adds the half to its centre.
        triplets[inside, :2] = thing.keypoints[inside]
        triplets[inside, 2] = np.where(seen, 2, 1)
    return {"keypoints": triplets.ravel().tolist(), "num_keypoints": int((triplets[:, 2] > 0).sum())}


def uncompressed_rle(mask: np.ndarray) -> dict:
    """COCO's RLE of a (H, W) bool mask with its counts as a list: runs down the columns, zeros first."""
    pixels = mask.T.ravel()
    ends = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff(np.concatenate([[0], ends, [pixels.size]])).tolist()
    return {"size": list(mask.shape), "counts": ([0] if pixels[0] else []) + counts}


def mask_to_polygons(mask: np.ndarray, tolerance: float = 0.75) -> list[np.ndarray]:
    """Outlines of a (H, W) bool mask along the edges of its pixels: (P, 2) float each, P >= 3.

    COCO polygons have no holes: a region with one is cut in two along a column through the hole.
    tolerance: the greatest deviation in pixels.
    """
    # Contours run through pixels. Those of the lattice of pixel corners that touch the mask are its edges.
    corners = cv2.dilate(np.pad(mask, ((0, 1), (0, 1))).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, hierarchy = cv2.findContours(corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0] if contours else ()):
        if parent >= 0:
            cut = int(contour[:, 0, 0].mean())
            left = mask_to_polygons(mask[:, :cut], tolerance)
            return left + [p + [cut, 0] for p in mask_to_polygons(mask[:, cut:], tolerance)]
    outlines = [cv2.approxPolyDP(contour, tolerance, closed=True)[:, 0] for contour in contours]
    return [outline.astype(float) for outline in outlines if len(outline) >= 3]
