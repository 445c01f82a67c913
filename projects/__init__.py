"""Successors of Mask R-CNN, each a folder; installed as `mrcnn_plugin.projects.<name>`."""
