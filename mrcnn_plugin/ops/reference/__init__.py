"""Slow, obvious PyTorch twins of every op: oracles of the tests, and what runs without csrc."""

from mrcnn_plugin.ops.reference import keypoints, masks, polygons, winograd

__all__ = ["keypoints", "masks", "polygons", "winograd"]
