"""Predictors of one data set's classes from those of another's, to fine-tune from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Cityscapes' classes, in Detectron2's order, and COCO's class (in Detectron2's order) of the same thing.
CITYSCAPES_FROM_COCO = {
    "person": 0,
    "rider": None,
    "car": 2,
    "truck": 7,
    "bus": 5,
    "train": 6,
    "motorcycle": 3,
    "bicycle": 1,
}
_PREDICTORS = {
    "roi_heads.box_predictor.cls_score": (1, 0.01),
    "roi_heads.box_predictor.bbox_pred": (4, 0.001),
    "roi_heads.mask_head.predictor": (1, 0.001),
}


def select_class_rows(
    state_dict: Mapping[str, Tensor], sources: Sequence[int | None], *, seed: int = 0
) -> dict[str, Tensor]:
    """State dict whose predictors are for other classes, taken from the ones that they have.

    Args:
        state_dict: of a Detectron2 model with Fast R-CNN's box predictor and, if any, a class-specific mask
            predictor. Class-agnostic ones are left as they are.
        sources: for each new class the old class to take, or None: drawn as Detectron2 initialises that
            layer (normal, bias 0). The background's row stays.
        seed: of those draws.

    Returns:
        A new dict; tensors that do not change are shared.
    """
    state = dict(state_dict)
    classes = state["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    bad = [s for s in sources if s is not None and not 0 <= s < classes]
    if bad:
        raise ValueError(f"sources must be classes 0 to {classes - 1} of the state dict, got {bad[0]}")
    generator = torch.Generator().manual_seed(seed)
    for name, (rows, std) in _PREDICTORS.items():
        for part in ("weight", "bias"):
            old = state.get(f"{name}.{part}")
            if old is None or old.shape[0] not in (rows * classes, rows * classes + 1):
                continue
            by_class = old[: rows * classes].unflatten(0, (classes, rows))
            spread = std if part == "weight" else 0.0
            new = [_drawn(by_class[0], spread, generator) if s is None else by_class[s] for s in sources]
            # What is left over is the background's row.
            state[f"{name}.{part}"] = torch.cat([torch.cat(new), old[rows * classes :]])
    return state


def _drawn(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return std * torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def coco_to_cityscapes(
    state_dict: Mapping[str, Tensor], *, rider: str = "random", seed: int = 0
) -> dict[str, Tensor]:
    """Weights of a COCO Mask R-CNN -> start of one for Cityscapes' 8 classes (paper, appendix A).

    Args:
        state_dict: of a Detectron2 model with COCO's 80 classes.
        rider: "random", as the paper has it: the 7 classes that COCO has are taken over and rider is drawn.
            "person": from COCO's person, a variant that Detectron offered too.
        seed: of the draw.

    Returns:
        State dict for `num_classes=8`. Detectron2's own recipe instead draws all 8.
    """
    if rider not in ("random", "person"):
        raise ValueError(f"rider must be 'random' or 'person', got {rider!r}")
    classes = state_dict["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    if classes != 80:
        raise ValueError(f"state_dict must be of a model for COCO's 80 classes, got {classes}")
    sources = {**CITYSCAPES_FROM_COCO, "rider": 0 if rider == "person" else None}
    return select_class_rows(state_dict, list(sources.values()), seed=seed)
