"""Mask R-CNN and its family as a plugin for Detectron2."""
