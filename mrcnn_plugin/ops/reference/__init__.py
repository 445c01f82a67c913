"""Slow, obvious PyTorch twins of every op: oracles of the tests, and what runs without csrc."""

from mrcnn_plugin.ops.reference import keypoints, masks, nms, polygons, winograd

__all__ = ["keypoints", "masks", "nms", "polygons", "winograd"]
