"""Parameters and FLOPs of the configs, by part, and of Detectron2's own model of the same settings.

    python benchmarks/model_zoo.py [CONFIG ...] [--size 800 1216] [--proposals 1000] [--detections 100]

FLOPs are those of convolutions and matrix products (one multiply-add is one), at inference, for an image of
that size. Nothing is computed: the models are on the meta device. Detectron2's heads predict a mask for every
class, ours one.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import copy
import sys
from collections.abc import Callable

import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN, poolers, proposal_generator, roi_heads
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mrcnn_plugin import model_zoo, modeling

FAMILIES = (
    "COCO-Detection/",
    "COCO-InstanceSegmentation/",
    "COCO-Keypoints/",
    "Cityscapes/mask_rcnn_R_50",
    "new_baselines/",
    "paper/mask_rcnn_X",
)
THEIRS = {
    modeling.MaskRCNN: GeneralizedRCNN,
    modeling.MaskRCNNROIHeads: roi_heads.StandardROIHeads,
    modeling.MaskRCNNC4ROIHeads: roi_heads.Res5ROIHeads,
    modeling.FCNMaskHead: roi_heads.MaskRCNNConvUpsampleHead,
    modeling.OneHotKeypointHead: roi_heads.KRCNNConvDeconvUpsampleHead,
    modeling.ROIPooler: poolers.ROIPooler,
    modeling.MaskRCNNRPN: proposal_generator.RPN,
    modeling.BoxPredictor: roi_heads.FastRCNNOutputLayers,
}


def detectron2_model(model: DictConfig) -> DictConfig:
    """The same model of Detectron2's own classes."""
    model = copy.deepcopy(model)
    model.pop("mask_format", None)
    _replace_targets(model)
    return model


def _replace_targets(node: DictConfig) -> None:
    for key in node:
        if key == "_target_":
            node[key] = THEIRS.get(node[key], node[key])
        elif not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
            _replace_targets(node[key])


def flops(function: Callable, *inputs) -> float:
    """1e9 FLOPs of one call."""
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    # It counts a multiply-add as two.
    return counter.get_total_flops() / 2e9


@torch.no_grad()
def count(config: DictConfig, size: tuple[int, int], proposals: int, detections: int) -> dict[str, float]:
    """Parameters in millions and FLOPs in billions of a model's parts."""
    with torch.device("meta"):
        model = instantiate(config).eval()
        batch = torch.zeros(1, 3, *size)
        features = model.backbone(batch)
        rpn_inputs = [features[name] for name in model.proposal_generator.in_features]
        row = {
            "params": sum(p.numel() for p in model.parameters()) / 1e6,
            "backbone": flops(model.backbone, batch),
            "rpn": flops(model.proposal_generator.rpn_head, rpn_inputs),
        }
        for name, (function, rois) in _branches(model.roi_heads, features, proposals, detections).items():
            row[name] = flops(function, rois)
    row["total"] = sum(value for name, value in row.items() if name != "params")
    return row


def _branches(
    heads: nn.Module, features: dict[str, Tensor], proposals: int, detections: int
) -> dict[str, tuple[Callable, Tensor]]:
    """What follows each pooler, with the RoI features that it gets."""
    shared = hasattr(heads, "res5")

    def rois(pooler: nn.Module, number: int) -> Tensor:
        name = (heads.in_features if shared else heads.box_in_features)[0]
        return torch.zeros(number, features[name].shape[1], *pooler.output_size)

    def masks(x: Tensor) -> Tensor:
        if not isinstance(heads.mask_head, modeling.FCNMaskHead):
            return heads.mask_head.layers(x)
        return heads.mask_head.masks_of(x, [torch.zeros(len(x), dtype=torch.int64)])

    if shared:
        branches = {
            "box": (
                lambda x: heads.box_predictor(heads.res5(x).mean(dim=[2, 3])),
                rois(heads.pooler, proposals),
            )
        }
        if heads.mask_on:
            # res5 runs on the detections anew.
            branches["mask"] = (lambda x: masks(heads.res5(x)), rois(heads.pooler, detections))
        return branches
    branches = {"box": (lambda x: heads.box_predictor(heads.box_head(x)), rois(heads.box_pooler, proposals))}
    if heads.mask_on:
        branches["mask"] = (masks, rois(heads.mask_pooler, detections))
    if heads.keypoint_on:
        branches["keypoint"] = (heads.keypoint_head.layers, rois(heads.keypoint_pooler, detections))
    return branches


def different(configs: list[str]) -> dict[str, DictConfig]:
    """The models of `configs`, each once: many differ in schedule or data only."""
    models: dict[str, DictConfig] = {}
    for name in configs:
        model = model_zoo.get_config(name).model
        if model not in models.values():
            models[name.removesuffix(".py")] = model
    return models


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", help="default: every one on COCO and Cityscapes")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1216], help="height and width, pixels")
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100)
    args = parser.parse_args()
    configs = args.configs or [c for c in model_zoo.list_configs() if c.startswith(FAMILIES)]
    rows = []
    for config, model in different(configs).items():
        row, theirs = (
            count(m, tuple(args.size), args.proposals, args.detections)
            for m in (model, detectron2_model(model))
        )
        if any(row[c] != theirs[c] for c in row if c not in ("mask", "total")):
            raise AssertionError(f"{config}: Detectron2's model differs: {row}, {theirs}")
        cells = [row.get(c) for c in ("params", "backbone", "rpn", "box", "keypoint")]
        cells += [r.get(c) for c in ("mask", "total") for r in (row, theirs)]
        rows.append([config, *("" if cell is None else f"{cell:.1f}" for cell in cells)])
    print(f"Parameters in millions; GFLOPs at {args.size[0]}x{args.size[1]}, {args.proposals} proposals,")
    print(f"{args.detections} detections. Where there is no column for Detectron2, its figure is the same.")
    columns = ["params", "backbone", "RPN", "box", "keypoint", "mask", "Detectron2", "total", "Detectron2"]
    print(tabulate(rows, ["config", *columns], tablefmt="github"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
