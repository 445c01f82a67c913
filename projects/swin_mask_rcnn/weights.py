"""Swin Transformer's official releases (microsoft/Swin-Transformer and its detection models) -> our names.

Both name the backbone's parameters alike, the second with "backbone." before them. They merge tokens at the
end of a stage, where timm and the paper's Figure 3 have it at the beginning of the next one. Neck, RPN and
heads of the detection models are MMDetection's.

python -m mrcnn_plugin.projects.swin_mask_rcnn.weights IN.pth OUT.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from torch import Tensor

from mrcnn_plugin.checkpoint.convert.command_line import add_file_arguments, convert_file
from mrcnn_plugin.checkpoint.convert.mmdetection import NECK_AND_HEADS
from mrcnn_plugin.checkpoint.convert.names import rename

_BLOCK = r"backbone\.layers\.(\d)\.blocks\.(\d+)\."
_NEW_BLOCK = r"backbone.bottom_up.layers.\1.blocks.\2."
_RULES = (
    (r"backbone\.patch_embed\.(proj|norm)\.(weight|bias)", r"backbone.bottom_up.patch_embed.\1.\2"),
    (_BLOCK + r"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)", _NEW_BLOCK + r"\3.\4"),
    (_BLOCK + r"attn\.relative_position_bias_table", _NEW_BLOCK + "attn.relative_position_bias_table"),
    (
        r"backbone\.layers\.(\d)\.downsample\.(reduction\.weight|norm\.weight|norm\.bias)",
        r"backbone.bottom_up.layers.{\1+1}.downsample.\2",
    ),
    (r"backbone\.norm(\d)\.(weight|bias)", r"backbone.bottom_up.norm\1.\2"),
    *NECK_AND_HEADS,
)
# Computed from the window's size by every implementation.
_BUFFERS = ("relative_position_index", "attn_mask")
# Of the classifier, behind the last stage.
_CLASSIFIER = ("norm.weight", "norm.bias", "head.weight", "head.bias")


def convert_swin(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an official Swin release -> those of Mask R-CNN on projects/swin_mask_rcnn's backbone.

    Args:
        state_dict: of a classifier ("model" in the file; its last norm and its head are left out), or of a
            Mask R-CNN ("state_dict"; whole).

    Returns:
        The state dict of the model with an FPN, of its backbone alone for a classifier.

    Raises:
        ValueError: a name that these do not have: Swin V2, absolute position embeddings, the cascades' heads,
            files that MMDetection (2.17 or later) or timm has written.
    """
    if not any(name.endswith("layers.0.downsample.norm.weight") for name in state_dict):
        raise ValueError(
            "no layers.0.downsample: not the names of Swin's official releases (microsoft/Swin-Transformer "
            "and SwinTransformer/Swin-Transformer-Object-Detection), which merge at the end of each stage"
        )
    state_dict = {k: v for k, v in state_dict.items() if not k.endswith(_BUFFERS) and k not in _CLASSIFIER}
    if not any(name.startswith("backbone.") for name in state_dict):
        state_dict = {f"backbone.{name}": value for name, value in state_dict.items()}
    return rename(state_dict, _RULES, "Swin")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.projects.swin_mask_rcnn.weights",
        description="Converts weights of Swin's official releases to the parameter names of this package.",
    )
    add_file_arguments(parser)
    return convert_file(parser.parse_args(arguments), convert_swin)


if __name__ == "__main__":
    sys.exit(main())
