"""Custom ops: wrappers, fake kernels, autograd. Imports no Detectron2."""

from mrcnn_plugin.ops.encode_masks import encode_masks
from mrcnn_plugin.ops.paste_masks import paste_masks

__all__ = ["encode_masks", "paste_masks"]
