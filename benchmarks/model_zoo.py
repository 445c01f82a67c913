"""Parameters and FLOPs of the configs, by part.

    python benchmarks/model_zoo.py [CONFIG ...] [--size 800 1216] [--proposals 1000] [--detections 100]

FLOPs are fvcore's (one multiply-add is one), at inference, of the network's layers for an image of that size:
pooling, NMS and pasting are not counted. Detectron2's heads predict a mask for every class, ours one.
"""

from __future__ import annotations

# First, since it mends Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import logging
import sys

import torch
from detectron2.config import instantiate
from fvcore.nn import FlopCountAnalysis
from tabulate import tabulate
from torch import Tensor, nn

from mrcnn_plugin import model_zoo
from mrcnn_plugin.modeling.mask_head import FCNMaskHead, class_logits

FAMILIES = ("COCO-InstanceSegmentation/", "COCO-Keypoints/", "Cityscapes/", "LVIS")


class _Chosen(nn.Module):
    """A mask head on RoIs whose class is known: FCNMaskHead does not compute the others."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.head, FCNMaskHead):
            return self.head.layers(x)
        classes = torch.zeros(len(x), dtype=torch.int64)
        return class_logits(self.head.features(x), self.head.predictor, classes)


class _Layers(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head.layers(x)


class _Boxes(nn.Module):
    """What follows the box pooler: a head, or C4's res5 and the mean over its pixels, and the predictor."""

    def __init__(self, heads: nn.Module) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self.heads, "res5"):
            return self.heads.box_predictor(self.heads.res5(x).mean(dim=[2, 3]))
        return self.heads.box_predictor(self.heads.box_head(x))


def flops(module: nn.Module, *inputs) -> float:
    """1e9 FLOPs of one call."""
    analysis = FlopCountAnalysis(module, inputs)
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() / 1e9


@torch.no_grad()
def count(config: str, size: tuple[int, int], proposals: int, detections: int) -> dict[str, float]:
    """Parameters in millions and FLOPs in billions of a config's parts."""
    model = instantiate(model_zoo.get_config(config).model).eval()
    heads = model.roi_heads
    batch = torch.zeros(1, 3, *size)
    features = model.backbone(batch)
    rpn_inputs = [features[name] for name in model.proposal_generator.in_features]
    row = {
        "params": sum(p.numel() for p in model.parameters()) / 1e6,
        "backbone": flops(model.backbone, batch),
        "rpn": flops(model.proposal_generator.rpn_head, rpn_inputs),
    }
    pooler = heads.pooler if hasattr(heads, "res5") else heads.box_pooler
    in_features = heads.in_features if hasattr(heads, "res5") else heads.box_in_features
    channels = features[in_features[0]].shape[1]

    def rois(pooler: nn.Module, channels: int) -> Tensor:
        return torch.zeros(1, channels, *pooler.output_size)

    # Layers work on each RoI alone, so one is counted and multiplied.
    row["box"] = proposals * flops(_Boxes(heads), rois(pooler, channels))
    if getattr(heads, "mask_on", False):
        if hasattr(heads, "res5"):
            x = heads.res5(rois(pooler, channels))
        else:
            x = rois(heads.mask_pooler, channels)
        row["mask"] = detections * flops(_Chosen(heads.mask_head), x)
        row["mask, all classes"] = detections * flops(_Layers(heads.mask_head), x)
    if getattr(heads, "keypoint_on", False):
        x = rois(heads.keypoint_pooler, channels)
        row["keypoint"] = detections * flops(_Layers(heads.keypoint_head), x)
    row["total"] = sum(v for k, v in row.items() if k not in ("params", "mask, all classes"))
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", help="default: every COCO and Cityscapes config")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1216], help="height and width, pixels")
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100)
    args = parser.parse_args()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    configs = args.configs or [c for c in model_zoo.list_configs() if c.startswith(FAMILIES)]
    columns = ("params", "backbone", "rpn", "box", "mask", "mask, all classes", "keypoint", "total")
    rows = []
    for config in configs:
        row = count(config, tuple(args.size), args.proposals, args.detections)
        rows.append([config.removesuffix(".py"), *(f"{row[c]:.1f}" if c in row else "" for c in columns)])
    print(f"Parameters in millions; GFLOPs at {args.size[0]}x{args.size[1]}, {args.proposals} proposals,")
    print(f"{args.detections} detections. `total` is with our mask head, which computes one class a RoI.")
    print(tabulate(rows, ["config", *columns], tablefmt="github"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
