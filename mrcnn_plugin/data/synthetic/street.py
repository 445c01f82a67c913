"""Drawn street scenes with Cityscapes' labels: polygons, bottom to top, and the picture that they make."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Outline:
    """A class of things.

    points: in a unit box, x in [-0.5, 0.5], y from 0 on the ground up to 1; aspect: width over height;
    height: in the foreground, over the image's.
    """

    points: tuple[tuple[float, float], ...]
    aspect: float
    height: float


def _wheels(radius: float = 0.25) -> tuple[tuple[float, float], ...]:
    """Two octagons joined by a bar."""
    angles = np.arange(8) * np.pi / 4 + np.pi / 8
    ring = np.stack([radius * np.cos(angles), 0.5 + 0.5 * np.sin(angles)], 1)
    left = ring[np.roll(np.arange(8), 0)] - (0.25, 0)
    right = ring[np.roll(np.arange(8), 4)] + (0.25, 0)
    return tuple(map(tuple, np.concatenate([left, right]).tolist()))


#: In the order of Cityscapes' ids.
THINGS = {
    "person": Outline(
        ((-0.35, 0), (-0.1, 0), (0, 0.35), (0.1, 0), (0.35, 0), (0.5, 0.7), (0.2, 0.75))
        + ((0.25, 1), (-0.25, 1), (-0.2, 0.75), (-0.5, 0.7)),
        0.42,
        0.5,
    ),
    "rider": Outline(((-0.5, 0), (0.5, 0), (0.15, 0.55), (0.5, 0.85), (0.1, 1), (-0.4, 0.8)), 0.7, 0.5),
    "car": Outline(
        ((-0.5, 0), (0.5, 0), (0.5, 0.5), (0.3, 0.55), (0.15, 1), (-0.2, 1), (-0.35, 0.55), (-0.5, 0.5)),
        2.0,
        0.3,
    ),
    "truck": Outline(((-0.5, 0), (0.5, 0), (0.5, 0.55), (0.2, 0.55), (0.2, 1), (-0.5, 1)), 1.6, 0.45),
    "bus": Outline(((-0.5, 0), (0.5, 0), (0.5, 0.85), (0.42, 1), (-0.42, 1), (-0.5, 0.85)), 1.5, 0.55),
    "train": Outline(((-0.5, 0), (0.5, 0), (0.4, 1), (-0.4, 1)), 3.2, 0.4),
    "motorcycle": Outline(
        ((-0.5, 0), (-0.2, 0), (0, 0.3), (0.2, 0), (0.5, 0), (0.5, 0.4), (0.3, 0.5), (0.4, 1))
        + ((0.2, 0.6), (-0.4, 0.7), (-0.5, 0.3)),
        1.3,
        0.33,
    ),
    "bicycle": Outline(_wheels(), 1.9, 0.33),
}
GROUPS = ("person", "car", "bicycle")
HORIZON = 0.4
# A thing of fewer pixels is not drawn: Cityscapes' scripts ignore regions of less than 100.
MIN_AREA = 110.0


@dataclass(eq=False)
class Street:
    """image: (H, W, 3) uint8 RGB. objects: Cityscapes' `objects`: label and polygon (integer pixels), each
    over those before it."""

    image: np.ndarray
    objects: list[dict]


def draw_street(height: int, width: int, seed: int | np.random.SeedSequence) -> Street:
    """Draws one scene; the same seed gives the same one."""
    if height < 64 or width < 64:
        raise ValueError(f"height and width must be at least 64 pixels, got {height} and {width}")
    painter = _Painter(height, width, np.random.default_rng(seed))
    painter.surroundings()
    painter.things()
    painter.own_car()
    return Street(painter.finished(), painter.objects)


class _Painter:
    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.image = np.zeros((height, width, 3), np.uint8)
        self.objects: list[dict] = []

    def paint(self, label: str | None, polygon: np.ndarray, color: tuple[float, ...]) -> bool:
        """Draws a polygon (P, 2) and lists it, unless too little of it lies inside; None lists nothing."""
        inside = polygon.clip((0, 0), (self.width - 1, self.height - 1)).round().astype(np.int32)
        wanted = label is None or label == "license plate" or cv2.contourArea(inside) >= MIN_AREA
        if wanted:
            cv2.fillPoly(self.image, [inside], [int(c) for c in color])
            if label is not None:
                self.objects.append({"label": label, "polygon": inside.tolist()})
        return wanted

    def box(self, label: str, left: float, top: float, right: float, bottom: float, color) -> None:
        """A rectangle in fractions of the image."""
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        self.paint(label, corners * (self.width, self.height), color)

    def gray(self, low: int, high: int, tint: tuple[int, int, int] = (0, 0, 0)) -> tuple[float, ...]:
        return tuple(np.clip(self.rng.uniform(low, high) + np.array(tint), 0, 255))

    def surroundings(self) -> None:
        rng = self.rng
        self.box("sky", 0, 0, 1, HORIZON, self.gray(170, 225, (-20, 0, 20)))
        self.box("road", 0, HORIZON, 1, 1, self.gray(70, 110))
        left = 0.0
        while left < 1:
            right, top = left + rng.uniform(0.1, 0.3), rng.uniform(0.02, HORIZON - 0.1)
            green = rng.random() < 0.4
            color = self.gray(90, 160, (-40, 15, -40) if green else (15, 5, -10))
            self.box("vegetation" if green else "building", left, top, min(right, 1), HORIZON, color)
            left = right + (rng.uniform(0, 0.1) if rng.random() < 0.4 else 0)
        edge = HORIZON + rng.uniform(0.03, 0.07)
        self.box("sidewalk", 0, HORIZON, 1, edge, self.gray(130, 160, (10, 0, 10)))

    def things(self) -> None:
        """Two to six things on the ground, far ones first; in one scene of six also a group."""
        rng = self.rng
        names = list(THINGS)
        feet = np.sort(rng.uniform(HORIZON + 0.15, 0.93, int(rng.integers(2, 7))))
        group_at = int(rng.integers(len(feet))) if rng.random() < 1 / 6 else -1
        for index, foot in enumerate(feet):
            if index == group_at:
                self.group(GROUPS[rng.integers(len(GROUPS))], foot)
            else:
                self.thing(names[rng.integers(len(names))], rng.uniform(0.08, 0.92), foot)

    def place(self, name: str, x: float, foot: float, scale: float = 1.0) -> np.ndarray:
        """Outline (P, 2) of a thing whose feet are at (x, foot), fractions of the image."""
        thing, rng = THINGS[name], self.rng
        depth = 0.55 + 0.45 * (foot - HORIZON) / (1 - HORIZON)
        high = thing.height * depth * scale * rng.uniform(0.85, 1.15) * self.height
        wide = high * thing.aspect * rng.uniform(0.9, 1.1) * rng.choice((-1, 1))
        return np.array((x * self.width, foot * self.height)) + np.array(thing.points) * (wide, -high)

    def color(self, name: str) -> tuple[float, ...]:
        """Each class keeps to its part of the colour wheel."""
        hue = (list(THINGS).index(name) + self.rng.uniform(-0.35, 0.35)) / len(THINGS)
        rgb = colorsys.hsv_to_rgb(hue % 1, self.rng.uniform(0.55, 0.95), self.rng.uniform(0.6, 1))
        return tuple(255 * channel for channel in rgb)

    def thing(self, name: str, x: float, foot: float) -> None:
        outline = self.place(name, x, foot)
        if self.paint(name, outline, self.color(name)) and name == "car" and self.rng.random() < 0.5:
            size = 0.008 * np.array((self.width, self.height))
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * size
            self.paint("license plate", outline.mean(0) + corners, (240, 240, 240))

    def group(self, name: str, foot: float) -> None:
        """Many of one class that nobody has told apart: one region."""
        places = self.rng.uniform(0.2, 0.8) + self.rng.uniform(-0.1, 0.1, 6)
        outlines = [self.place(name, x, foot, 0.7) for x in places]
        hull = cv2.convexHull(np.concatenate(outlines).astype(np.float32))[:, 0]
        if self.paint(f"{name}group", hull, self.gray(90, 130)):
            for outline in outlines:
                self.paint(None, outline, self.color(name))

    def own_car(self) -> None:
        """What the camera sees of its own car, and the border that rectification leaves: both ignored."""
        points = np.array([(0.1, 1), (0.25, 0.965), (0.75, 0.965), (0.9, 1)])
        self.paint("ego vehicle", points * (self.width, self.height), self.gray(20, 40))
        self.box("rectification border", 0, 0, 2 / self.width, 1, (0, 0, 0))

    def finished(self) -> np.ndarray:
        noise = self.rng.normal(0, self.rng.uniform(2, 8), self.image.shape)
        image = cv2.GaussianBlur(self.image, (3, 3), 0) + noise
        return image.round().clip(0, 255).astype(np.uint8)
