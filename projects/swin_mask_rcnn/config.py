"""What Detectron2's YAML configs need: the keys of the backbone, and its builders by name."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .backbone import SwinTransformer


def add_swin_config(cfg: CfgNode) -> None:
    """Adds MODEL.SWIN, in place, to a config from `get_cfg()`; the defaults are those of Swin-T.

    The keys are `SwinTransformer`'s arguments; MODEL.BACKBONE.FREEZE_AT, which is of ResNets, is not read.
    """
    cfg.MODEL.SWIN = CfgNode(
        {
            "EMBED_DIM": 96,
            "DEPTHS": [2, 2, 6, 2],
            "NUM_HEADS": [3, 6, 12, 24],
            "WINDOW_SIZE": 7,
            "MLP_RATIO": 4.0,
            "DROP_PATH_RATE": 0.2,
            "OUT_FEATURES": ["stage1", "stage2", "stage3", "stage4"],
            "FREEZE_AT": 0,
        }
    )


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """`SwinTransformer` by MODEL.SWIN (`add_swin_config`), for images of three channels."""
    if "SWIN" not in cfg.MODEL:
        raise ValueError("the config has no MODEL.SWIN: call add_swin_config(cfg) before reading the file")
    if input_shape.channels != 3:
        raise ValueError(f"images of 3 channels are expected, got {input_shape.channels}")
    return SwinTransformer(**{key.lower(): value for key, value in cfg.MODEL.SWIN.items()})


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN (MODEL.FPN) on `SwinTransformer`, with p6 from p5 by max pooling."""
    return FPN(
        bottom_up=build_swin_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
