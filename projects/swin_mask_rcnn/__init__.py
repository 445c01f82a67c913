"""Swin Transformer (Liu et al. 2021, arXiv 2103.14030) as a backbone; importing it registers it."""

from .backbone import SwinTransformer
from .config import add_swin_config, build_swin_backbone, build_swin_fpn_backbone

__all__ = ["SwinTransformer", "add_swin_config", "build_swin_backbone", "build_swin_fpn_backbone"]
