"""Resizing in a graph against Pillow and Detectron2."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mrcnn_plugin.export.resize import ShortestEdge, resize


@pytest.mark.parametrize("size", [(40, 30), (64, 48), (150, 97), (128, 40), (30, 41)])
def test_pixels_are_pillows(size):
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
    found = resize(torch.from_numpy(picture).permute(2, 0, 1).float(), *size).permute(1, 2, 0).numpy()
    gaps = np.abs(found - expected)
    assert gaps.max() <= 1
    # Where a picture gets flatter, Pillow may take rows first, and other halves are rounded.
    assert (gaps > 0).mean() < (0.4 if size[0] / 64 < size[1] / 48 else 0.05)


@given(height=st.integers(16, 3000), width=st.integers(16, 3000))
def test_size_is_detectron2s(height, width):
    found = ShortestEdge(800, 1333).size(height, width)
    transform = T.ResizeShortestEdge(800, 1333).get_transform(np.empty((height, width, 3), dtype=np.uint8))
    # Detectron2 rounds the product of rounded scales, so that halves may fall either way.
    assert abs(found[0] - transform.new_h) + abs(found[1] - transform.new_w) <= 1
    exact = [min(800 / min(height, width), 1333 / max(height, width)) * side for side in (height, width)]
    if all(abs(side % 1 - 0.5) > 1e-6 for side in exact):
        assert found == (transform.new_h, transform.new_w)
