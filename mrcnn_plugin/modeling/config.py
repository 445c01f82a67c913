"""Keys that the components read from a Detectron2 CfgNode beyond Detectron2's own."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds, in place, the keys of mrcnn_plugin to a config from `detectron2.config.get_cfg()`.

    Needed only to set them: a config without these keys builds every component with the defaults below.
    """
    # Detectron2's main branch has this key, 0.6 has not: "highest", "high" or "medium".
    cfg.FLOAT32_PRECISION = cfg.get("FLOAT32_PRECISION", "")
    # On the CPU, evaluate a copy that `mrcnn_plugin.optimize` makes.
    cfg.TEST.OPTIMIZED = True
    # Keys of the training loop; docs/training_keys.md describes them.
    cfg.TRAIN = CfgNode(
        {
            "BEST_CHECKPOINT": {"METRIC": "", "MODE": ""},
            "EARLY_STOPPING": {"METRIC": "", "MODE": "", "PATIENCE": 5},
            "EMA": {"DECAY": 0.0},
            "VALIDATION_LOSS": False,
            "ACCUMULATE": 1,
            "MEMORY_FORMAT": "auto",
            "FUSED_CONVOLUTIONS": True,
            "TRACKERS": ["tensorboard"],
        }
    )
    head = cfg.MODEL.ROI_MASK_HEAD
    # What `MaskRCNN` returns for masks: "bitmask", "rle" or "raw".
    head.MASK_FORMAT = "bitmask"
    # Probability from which a pixel belongs to the instance.
    head.MASK_THRESHOLD = 0.5
    # MLPMaskHead: hidden layers, their width, and the side of the predicted mask.
    head.NUM_FC = 2
    head.FC_DIM = 1024
    head.MASK_SIZE = 28
    # `TimmBackbone`; the arguments have the same names. MODEL.BACKBONE.FREEZE_AT is its freeze_at.
    cfg.MODEL.TIMM = CfgNode(
        {
            "NAME": "",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "NORM": "",
            "DROP_PATH_RATE": 0.0,
            "OUTPUT_STRIDE": 32,
            "PAD_MULTIPLE": 0,
        }
    )
    # Further arguments of timm.create_model, by their own names.
    cfg.MODEL.TIMM.MODEL_ARGS = CfgNode(new_allowed=True)
