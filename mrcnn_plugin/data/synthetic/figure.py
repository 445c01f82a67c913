"""An articulated stick person with COCO's 17 keypoints.

Body frame: origin between the hips, x to the right of the image, y down, unit = body height. The person
faces the viewer, so its left side is on the right of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KEYPOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
LIMBS = (
    ("nose", "left_eye"),
    ("nose", "right_eye"),
    ("left_eye", "left_ear"),
    ("right_eye", "right_ear"),
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    *(
        (f"{side}_{start}", f"{side}_{end}")
        for side in ("left", "right")
        for start, end in (
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
            ("shoulder", "hip"),
            ("hip", "knee"),
            ("knee", "ankle"),
        )
    ),
)
# Lengths as fractions of the body height.
TORSO, NECK, HEAD = 0.30, 0.04, 0.105
SHOULDER, HIP = 0.125, 0.08
UPPER_ARM, FOREARM, THIGH, SHIN = 0.16, 0.15, 0.23, 0.23
# From the crown of the head to the origin, and from there to the ankles of straight legs.
ABOVE, BELOW = TORSO + NECK + 2 * HEAD, THIGH + SHIN


@dataclass(eq=False)
class Part:
    """A filled polygon of one colour.

    polygon: (P, 2) float, image pixels; color: (3,) float in [0, 255].
    """

    polygon: np.ndarray
    color: np.ndarray


@dataclass(eq=False)
class Figure:
    """parts: drawn in this order. keypoints: (17, 2) float, image pixels.
    hidden: (17,) bool, behind the figure's own body."""

    parts: list[Part]
    keypoints: np.ndarray
    hidden: np.ndarray


def disc(center: np.ndarray, radius: float, points: int = 32) -> np.ndarray:
    """(points, 2) polygon of a circle."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.asarray(center) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def capsule(start: np.ndarray, end: np.ndarray, width: float) -> np.ndarray:
    """Polygon of a thick line with round ends, (18, 2)."""
    along = np.arctan2(*(end - start)[::-1])
    cap = along + np.linspace(-np.pi / 2, np.pi / 2, 9)
    arc = width / 2 * np.stack([np.cos(cap), np.sin(cap)], 1)
    return np.concatenate([end + arc, start - arc])


def direction(angle: float) -> np.ndarray:
    """Unit vector at `angle` from straight down, towards +x."""
    return np.array([np.sin(angle), np.cos(angle)])


def pose(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Keypoint positions (and `head`, the centre of the face) of a random pose in the body frame."""
    lean = np.radians(rng.normal(0, 6))
    up, across = -direction(-lean), direction(np.pi / 2 - lean)
    neck = TORSO * up
    tilt = lean + np.radians(rng.normal(0, 8))
    face_up, face_across = -direction(-tilt), direction(np.pi / 2 - tilt)
    head = neck + (NECK + HEAD) * face_up
    yaw = HEAD * rng.uniform(-0.25, 0.25) * face_across
    points = {"head": head, "nose": head + 1.2 * yaw - 0.22 * HEAD * face_up}
    for side, sign in (("left", 1), ("right", -1)):
        points[f"{side}_eye"] = head + yaw + 0.40 * HEAD * sign * face_across + 0.28 * HEAD * face_up
        points[f"{side}_ear"] = head + 1.0 * HEAD * sign * face_across
        shoulder = points[f"{side}_shoulder"] = neck + SHOULDER * sign * across
        raise_arm = np.radians(rng.uniform(-15, 150))
        bend = raise_arm + np.radians(rng.uniform(-70, 70))
        elbow = points[f"{side}_elbow"] = shoulder + UPPER_ARM * direction(sign * raise_arm)
        points[f"{side}_wrist"] = elbow + FOREARM * direction(sign * bend)
        hip = points[f"{side}_hip"] = HIP * sign * across
        spread = np.radians(rng.uniform(-5, 50))
        knee = points[f"{side}_knee"] = hip + THIGH * direction(sign * spread)
        points[f"{side}_ankle"] = knee + SHIN * direction(sign * (spread + np.radians(rng.uniform(-50, 15))))
    return points


def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether each point (N, 2) lies in a convex polygon (P, 2): (N,) bool."""
    edges = np.roll(polygon, -1, 0) - polygon
    offsets = points[:, None] - polygon
    cross = edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0]
    return (cross >= 0).all(1) | (cross <= 0).all(1)


def draw_figure(
    rng: np.random.Generator, center: np.ndarray, height: float, colors: np.ndarray, angle: float = 0.0
) -> Figure:
    """A stick person in a random pose.

    center: (2,) position of the middle of its body, image pixels; height: pixels from crown to ankle of
    straight legs; colors: (4, 3) of arms, torso, legs and skin; angle: radians, turns the whole figure.
    """
    arms, shirt, trousers, skin = np.asarray(colors, dtype=float)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array([0.0, (BELOW - ABOVE) / 2])
    at = {k: center + height * (v - middle) @ turn for k, v in pose(rng).items()}
    limb = height * rng.uniform(0.07, 0.09)

    def chain(names: tuple[str, ...], side: str, color: np.ndarray) -> list[Part]:
        joints = [at[f"{side}_{name}"] for name in names]
        shades = (color, np.clip(color * 0.8, 0, 255))
        return [Part(capsule(a, b, limb), s) for a, b, s in zip(joints, joints[1:], shades)]

    torso = np.stack([at["left_shoulder"], at["right_shoulder"], at["right_hip"], at["left_hip"]])
    outline = torso.mean(0) + (torso - torso.mean(0)) * [[1.0 + limb / height]]
    parts, in_front, hidden = [], [], np.zeros(17, dtype=bool)
    for side in ("left", "right"):
        parts += chain(("hip", "knee", "ankle"), side, trousers)
        if rng.random() < 0.3:
            parts += chain(("shoulder", "elbow", "wrist"), side, arms)
            behind = [KEYPOINT_NAMES.index(f"{side}_{name}") for name in ("elbow", "wrist")]
            hidden[behind] = inside(np.stack([at[KEYPOINT_NAMES[i]] for i in behind]), outline)
        else:
            in_front += chain(("shoulder", "elbow", "wrist"), side, arms)
    parts.append(Part(outline, shirt))
    parts.append(Part(capsule(outline.mean(0), at["head"], 0.9 * limb), skin))
    parts[-1], parts[-2] = parts[-2], parts[-1]
    parts += in_front
    parts += face(at, height, skin)
    keypoints = np.stack([at[name] for name in KEYPOINT_NAMES])
    return Figure(parts, keypoints, hidden)


def face(at: dict[str, np.ndarray], height: float, skin: np.ndarray) -> list[Part]:
    """Ears, head, eyes and nose."""
    dark, light = np.clip(skin * 0.25, 0, 255), np.clip(255 - 0.35 * (255 - skin), 0, 255)
    feature = 0.22 * HEAD * height
    ears = [Part(disc(at[f"{side}_ear"], 1.2 * feature, 12), skin * 0.7) for side in ("left", "right")]
    eyes = [Part(disc(at[f"{side}_eye"], feature, 12), dark) for side in ("left", "right")]
    nose = Part(disc(at["nose"], feature, 12), light)
    return [Part(disc(at["head"], HEAD * height), skin), *ears, *eyes, nose]
