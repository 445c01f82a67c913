"""Drawn samples: the annotations say what the pixels show."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_plugin.data.synthetic.drawing import (
    SHAPES,
    SUBPIXELS,
    Thing,
    annotate,
    compose,
    draw_sample,
    mask_to_polygons,
    uncompressed_rle,
)
from mrcnn_plugin.data.synthetic.figure import KEYPOINT_NAMES, Part, capsule, disc, draw_figure, inside

SEEDS = range(60)


@pytest.fixture(scope="module")
def samples():
    return {kind: [draw_sample(kind, 160, seed) for seed in SEEDS] for kind in ("shapes", "keypoints")}


def rasterize(segmentation, size):
    rle = mask_util.frPyObjects(segmentation, size, size)
    return mask_util.decode(rle if isinstance(segmentation, dict) else mask_util.merge(rle)).astype(bool)


def square(x0, y0, x1, y1, color=(200, 0, 0)):
    return Part(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float), np.array(color, float))


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_same_seed_draws_the_same_sample(kind):
    first, second, other = draw_sample(kind, 96, 7), draw_sample(kind, 96, 7), draw_sample(kind, 96, 8)
    assert np.array_equal(first.image, second.image)
    assert first.annotations == second.annotations
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_polygons_cover_the_drawn_pixels(samples, kind):
    overlaps = []
    for sample in samples[kind]:
        for annotation, mask in zip(sample.annotations, sample.masks):
            polygon_mask = rasterize(annotation["segmentation"], 160)
            overlaps.append(((polygon_mask & mask).sum(), (polygon_mask | mask).sum()))
            assert annotation["area"] == polygon_mask.sum()
    intersection, union = np.array(overlaps).T
    assert intersection.sum() / union.sum() > 0.975
    assert np.median(intersection / union) > 0.975
    # The tips of stars ten pixels wide are thinner than a pixel.
    assert (intersection / union).min() > 0.8
    assert (intersection / union)[union > 300].min() > 0.95


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_boxes_enclose_the_masks_tightly(samples, kind):
    for sample in samples[kind]:
        for annotation, mask in zip(sample.annotations, sample.masks):
            ys, xs = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            # A pixel counts to the mask from half coverage on, so sharp tips of the box reach further.
            limit = 3.0 if annotation["category"] in ("star", "triangle") or annotation["iscrowd"] else 1.0
            assert np.abs(np.array([x, y, x + w, y + h]) - tight).max() <= limit
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 160


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_instances_do_not_share_pixels(samples, kind):
    overlap_without_occlusion = 0
    for sample in samples[kind]:
        masks = np.array(sample.masks, int).reshape(-1, 160, 160)
        # Half-covered border pixels may round to both neighbours.
        overlap_without_occlusion += (masks.sum(0) > 1).sum()
    assert overlap_without_occlusion < 30 * len(SEEDS)


def test_sets_hold_what_they_promise(samples):
    annotations = [a for sample in samples["shapes"] for a in sample.annotations]
    instances = [a for a in annotations if not a["iscrowd"]]
    assert {a["category"] for a in instances} == set(SHAPES)
    assert 2 < len(instances) / len(SEEDS) < 5
    areas = np.array([a["area"] for a in instances])
    assert areas.min() >= 20
    assert np.quantile(areas, 0.15) < 16**2
    assert np.quantile(areas, 0.9) > 36**2
    assert any(a["iscrowd"] for a in annotations)
    assert any(not sample.annotations for sample in samples["shapes"])
    assert any(len(a["segmentation"]) > 1 for a in instances)

    figures = [a for s in samples["keypoints"] for a in s.annotations if not a["iscrowd"]]
    visibility = np.array([a["keypoints"] for a in figures]).reshape(len(figures), 17, 3)
    shares = [(visibility[..., 2] == v).mean() for v in (0, 1, 2)]
    assert shares[0] > 0.02
    assert shares[1] > 0.05
    assert shares[2] > 0.6
    assert (visibility[visibility[..., 2] == 0] == 0).all()
    assert [a["num_keypoints"] for a in figures] == (visibility[..., 2] > 0).sum(1).tolist()


def test_visible_keypoints_lie_on_the_figure(samples):
    for sample in samples["keypoints"]:
        for annotation, mask in zip(sample.annotations, sample.masks):
            for x, y, v in np.array(annotation["keypoints"]).reshape(-1, 3):
                if v == 2:
                    near = mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                    assert near.any()


def test_background_and_things_are_textured(samples):
    for sample in samples["shapes"][:10]:
        free = ~np.any(np.array(sample.masks).reshape(-1, 160, 160), axis=0)
        assert sample.image[free].std(0).min() > 2


def test_occlusion_cuts_the_lower_thing():
    lower, upper = Thing([square(10, 10, 40, 40)], "square"), Thing([square(25, 0, 60, 60)], "square")
    kept, owner, _ = compose([lower, upper], 64)
    assert kept == [upper, lower]
    annotation, mask = annotate(lower, owner == 2, 64)
    expected = np.zeros((64, 64), bool)
    expected[10:40, 10:25] = True
    assert np.array_equal(mask, expected)
    assert np.abs(np.array(annotation["bbox"]) - [10, 10, 15, 30]).max() <= 1 / SUBPIXELS
    assert annotation["area"] == pytest.approx(450, rel=0.02)


@pytest.mark.parametrize(("cover", "kept"), [(40, 0), (34, 0), (25, 1)])
def test_nearly_invisible_things_leave_the_scene(cover, kept):
    lower, upper = Thing([square(10, 10, 40, 40)], "square"), Thing([square(5, 5, cover, 60)], None)
    things, owner, _ = compose([lower, upper], 64)
    assert (lower in things) == bool(kept)
    assert (owner == 2).any() == bool(kept)


def test_things_outside_the_image_are_left_out():
    things, owner, _ = compose([Thing([square(70, 70, 90, 90)], "square")], 64)
    assert things == []
    assert not owner.any()


def test_keypoint_visibility():
    parts = [square(0, 0, 40, 40)]
    keypoints = np.full((17, 2), 10.0)
    keypoints[1], keypoints[2], keypoints[3], keypoints[4] = (30, 10), (-3, 5), (5, 64.0), (63.9, 63.9)
    figure = Thing(parts, "figure", keypoints=keypoints, hidden=np.arange(17) == 5)
    things, owner, _ = compose([figure, Thing([square(20, 0, 50, 50)], None)], 64)
    annotation, _ = annotate(figure, owner == things.index(figure) + 1, 64)
    triplets = np.array(annotation["keypoints"]).reshape(17, 3).tolist()
    assert triplets[:7] == [
        [10, 10, 2],
        [30, 10, 1],
        [0, 0, 0],
        [0, 0, 0],
        [63, 63, 1],
        [10, 10, 1],
        [10, 10, 2],
    ]
    assert annotation["num_keypoints"] == 15


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30), st.floats(0.05, 0.95))
def test_polygons_of_any_mask(seed, height, width, density):
    """Blocks of 4 x 4 stand for pixels: whatever holes and islands there are, the polygons redraw them."""
    cells = np.random.default_rng(seed).random((height, width)) < density
    mask = np.kron(cells, np.ones((4, 4), bool))
    polygons = mask_to_polygons(mask, tolerance=0)
    redrawn = np.zeros_like(mask)
    for polygon in polygons:
        assert polygon.min() >= 0
        assert (polygon.max(0) <= [4 * width, 4 * height]).all()
        redrawn |= (
            mask_util.decode(mask_util.frPyObjects([polygon.ravel().tolist()], *mask.shape))[..., 0] > 0
        )
    # Contours cut across the inner corners of blocks that touch diagonally.
    assert (redrawn != mask).mean() < 0.05


def test_polygons_of_a_ring():
    ring = np.zeros((40, 40), bool)
    ring[5:35, 5:35] = True
    ring[15:25, 15:25] = False
    polygons = mask_to_polygons(ring)
    assert len(polygons) == 2
    # Contours cut across the four inner corners.
    assert (rasterize([p.ravel().tolist() for p in polygons], 40) != ring).sum() <= 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1))
def test_uncompressed_rle_is_cocos(seed, height, width, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    rle = uncompressed_rle(mask)
    assert sum(rle["counts"]) == mask.size
    assert np.array_equal(mask_util.decode(mask_util.frPyObjects(rle, height, width)), mask)


def test_figure_is_upright_and_faces_the_viewer():
    colors = np.full((4, 3), 128.0)
    for seed in range(20):
        figure = draw_figure(np.random.default_rng(seed), np.array([80.0, 80.0]), 100.0, colors)
        at = dict(zip(KEYPOINT_NAMES, figure.keypoints))
        for name in ("eye", "ear", "shoulder", "hip"):
            assert at[f"left_{name}"][0] > at[f"right_{name}"][0]
        assert at["nose"][1] < at["left_shoulder"][1] < at["left_hip"][1]
        low, high = (
            np.concatenate([p.polygon for p in figure.parts])[:, 1].min(),
            figure.keypoints[:, 1].max(),
        )
        assert 60 < high - low < 115


def test_capsule_and_disc_outlines():
    outline = capsule(np.array([10.0, 10.0]), np.array([30.0, 10.0]), 4.0)
    assert outline.min(0) == pytest.approx([8, 8])
    assert outline.max(0) == pytest.approx([32, 12])
    assert np.linalg.norm(disc((3.0, 4.0), 2.0) - [3, 4], axis=1) == pytest.approx(2.0)


def test_points_inside_a_polygon_of_either_orientation():
    triangle = np.array([[0, 0], [4, 0], [0, 4]], float)
    points = np.array([[1, 1], [3, 3], [-1, 0]], float)
    for polygon in (triangle, triangle[::-1]):
        assert inside(points, polygon).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("cats", 64, "kind must be one of shapes, keypoints, got 'cats'"),
        ("shapes", 8, "at least 32 pixels, got 8"),
    ],
)
def test_bad_arguments(kind, size, message):
    with pytest.raises(ValueError, match=message):
        draw_sample(kind, size, 0)
