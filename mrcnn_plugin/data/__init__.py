"""Data sets: the built-in ones, COCO-format ones from the command line, and checks before training."""

from .registration import datasets_root, register_shapes, register_shapes_set

__all__ = ["datasets_root", "register_shapes", "register_shapes_set"]

register_shapes()
