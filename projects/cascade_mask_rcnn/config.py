"""The key that the RoI heads read from a Detectron2 CfgNode beyond Detectron2's own."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_cascade_config(cfg: CfgNode) -> None:
    """Adds MASK_STAGES, in place, to MODEL.ROI_BOX_CASCADE_HEAD of a config from `get_cfg()`.

    Needed only to set it: without the key one mask head is trained on the RoIs of the first stage.
    """
    # The stages, from 0, on whose RoIs a mask head is trained; each has a head of its own.
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.MASK_STAGES = [0]
