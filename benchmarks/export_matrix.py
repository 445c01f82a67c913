"""Every kind of model in every exported format, on real pictures: docs/deploy.md's table.

    python benchmarks/export_matrix.py --images FOLDER [--run NAME=FOLDER ...] [--only NAME ...]
        [--formats pt2 onnx openvino aoti] [--pictures 10] [--edges 320 800] [--image-size 480x640]
        --output FILE.json

Each picture has a shorter side of its own, from the first of `--edges` to the second. Models without a run
folder have random weights, whose class scores are spread as those of a trained model (no two are equal), and
are narrow but for "Mask R-CNN R50-FPN"; `--run` names trained ones. Both sides see the same pixels: the file
in its own runtime, the model in PyTorch. AOTInductor packages take pictures of `--image-size`, to which
pictures are resized and padded, for both sides. What a cell has to hold is
`mrcnn_plugin.export.parity.Tolerance`.

Cells are kept in the file as they are done, and another call adds to them; FILE.md beside it is the table.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from end_to_end import of_ours, spread_scores
from omegaconf import DictConfig
from runtimes import describe
from tabulate import tabulate
from torch import nn
from whole_models import as_if_trained, project, zoo

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.export import DetectionGraph, load, trace
from mrcnn_plugin.export.formats import WRITERS, onnx_to_openvino
from mrcnn_plugin.export.parity import OriginalModel, Parity, Tolerance, compare
from mrcnn_plugin.export.stages import first_stage
from mrcnn_plugin.modeling import TimmBackbone
from mrcnn_plugin.optimization import optimize
from mrcnn_plugin.predict import build_predictor, run_files
from mrcnn_plugin.runtime import FORMATS, Detections, ExportedModel

LEAST_SCORE = 0.05
LONGEST = 1333
Pictures = list[tuple[str, np.ndarray]]


def joint() -> DictConfig:
    """Masks and keypoints of one narrow model."""
    model = zoo("Shapes/keypoint_rcnn_R_18_FPN.py")
    masks = zoo("Shapes/mask_rcnn_R_18_FPN.py")
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads[key] = masks.roi_heads[key]
    return model


def dilated() -> DictConfig:
    """DC5 with narrow heads."""
    model = zoo("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.py")
    model.proposal_generator.update(pre_nms_topk=(1000, 1000), post_nms_topk=(300, 300))
    model.roi_heads.box_head.fc_dims = [128, 128]
    model.roi_heads.mask_head.conv_dims = [32] * 4
    return model


def timm(name: str) -> DictConfig:
    """A network of timm below the narrow FPN."""
    model = zoo("Shapes/mask_rcnn_R_18_FPN.py")
    model.backbone.bottom_up = L(TimmBackbone)(name=name, out_features=["res2", "res3", "res4", "res5"])
    return model


def shapes(name: str) -> DictConfig:
    """The narrow config of a project."""
    return project(name, f"Shapes/{name}_R_18_FPN.py")


#: name in the table -> config of the model.
CASES: dict[str, Callable[[], DictConfig]] = {
    "Faster R-CNN, FPN": lambda: zoo("Ablations/faster_rcnn_R_18_FPN.py"),
    "Mask R-CNN, FPN": lambda: zoo("Shapes/mask_rcnn_R_18_FPN.py"),
    "Mask R-CNN, C4": lambda: zoo("Ablations/mask_rcnn_R_18_C4.py"),
    "Mask R-CNN, C4, softmax masks": lambda: zoo("Ablations/mask_rcnn_R_18_C4_softmax.py"),
    "Mask R-CNN, DC5": dilated,
    "Keypoint R-CNN, FPN": lambda: zoo("Shapes/keypoint_rcnn_R_18_FPN.py"),
    "Masks and keypoints, FPN": joint,
    "Mask R-CNN, EfficientNet-Lite0 of timm": lambda: zoo("FineTune/mask_rcnn_efficientnet_lite0_FPN.py"),
    "Mask R-CNN, ConvNeXt of timm": lambda: timm("convnext_atto"),
    "Cascade Mask R-CNN": lambda: shapes("cascade_mask_rcnn"),
    "Mask Scoring R-CNN": lambda: shapes("mask_scoring_rcnn"),
    "PANet": lambda: shapes("panet"),
    "HTC": lambda: shapes("htc"),
    "PointRend": lambda: shapes("point_rend"),
    "Swin": lambda: project("swin_mask_rcnn", "Shapes/mask_rcnn_swin_FPN.py"),
    "Mask R-CNN R50-FPN": lambda: zoo("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"),
}


@dataclass(frozen=True)
class Subject:
    """A model in eval mode that finds what scores at least `LEAST_SCORE`; its colour order."""

    model: nn.Module
    color_order: str


@torch.no_grad()
def untrained(config: DictConfig, picture: np.ndarray) -> Subject:
    """Random weights whose scores differ on `picture`, (H, W, 3) uint8."""
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config.pop("mask_format", None)
    model = as_if_trained(instantiate(config)).eval()
    # As Detectron2's normalization brings a trained ResNet's maps to unit size.
    sample = {"image": torch.from_numpy(picture.copy()).permute(2, 0, 1)}
    scale_maps(model, sample)
    spread_scores(model, of_ours(model), sample)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = LEAST_SCORE
    return Subject(model, config.input_format)


def scale_maps(model: nn.Module, sample: dict) -> None:
    """Divides the input, in place, so that maps are of about unit size: a random network magnifies."""
    for _ in range(3):
        maps = model.backbone(model.preprocess_image([sample]).tensor)
        largest = max(float(one.std()) for one in maps.values())
        if largest <= 2:
            return
        model.pixel_std.mul_(largest)


def trained(folder: str) -> Subject:
    """The model of a run folder."""
    predictor = build_predictor(*run_files(folder), threshold=LEAST_SCORE, device="cpu", optimized=False)
    return Subject(predictor.model, predictor.config.build_test_mapper().image_format)


def read(folder: Path, count: int, edges: tuple[int, int]) -> Pictures:
    """RGB pictures of a folder, evenly chosen, the shorter side from one of `edges` to the other."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(files) < count:
        raise SystemExit(f"--images {folder}: {count} pictures are needed, it has {len(files)}")
    pictures = []
    for index, edge in enumerate(np.linspace(*edges, count).round().astype(int).tolist()):
        file = files[index * len(files) // count]
        pixels = detection_utils.read_image(str(file), format="RGB")
        resize = T.ResizeShortestEdge(edge, LONGEST).get_transform(pixels)
        pictures.append((f"{file.name} at {edge}", np.ascontiguousarray(resize.apply_image(pixels))))
    return pictures


class Remembered(ExportedModel):
    """A model that looks at each picture once, however many files it is compared with."""

    def __init__(self, original: OriginalModel) -> None:
        super().__init__(original.description)
        self._original = original
        self._found: dict[int, Detections] = {}

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return self._original.run(image)

    def __call__(self, image: np.ndarray) -> Detections:
        if id(image) not in self._found:
            self._found[id(image)] = self._original(image)
        return self._found[id(image)]


def measure(
    subject: Subject,
    pictures: Pictures,
    formats: Sequence[str],
    fixed: tuple[int, int],
    keep: Callable[[str, dict], None],
) -> None:
    """Exports a model in each format, compares it, and gives each cell to `keep` with the format's name.

    `fixed` is the height and width of what a format takes that has to be told.
    """
    folder = tempfile.TemporaryDirectory()
    for of_fixed_size in (False, True):
        chosen = [format for format in FORMATS if format in formats and (format == "aoti") == of_fixed_size]
        if not chosen:
            continue
        size = fixed if of_fixed_size else None
        start = time.process_time()
        graph = DetectionGraph(optimize(subject.model) if of_fixed_size else subject.model).eval()
        program = trace(graph, size)
        tracing = time.process_time() - start
        outputs = list(program.call_spec.out_spec.context)
        description = describe(
            subject.model, outputs, subject.color_order, score_threshold=LEAST_SCORE, image_size=size
        )
        original = OriginalModel(subject.model, description)
        remembered = Remembered(original)
        for format in chosen:
            start = time.process_time()
            path = Path(folder.name, f"model{FORMATS[format][0]}")
            onnx_file = path.with_suffix(".onnx")
            if format == "openvino" and onnx_file.is_file():
                onnx_to_openvino(onnx_file, description, path)
            else:
                WRITERS[format](program, description, path)
            writing = time.process_time() - start
            where = ""
            try:
                parity = compare(remembered, load(path), pictures, Tolerance(), limit=original.limit)
            except Exception as error:
                # Of a runtime: the other cells do not depend on it.
                parity = Parity(first=f"does not run: {' '.join(str(error).split())[:400]}")
            if parity.picture:
                image = dict(pictures)[parity.picture]
                where = first_stage(graph, description, format, image, size=size)
            found = {
                "tracing": round(tracing, 1),
                "writing": round(writing, 1),
                "pictures": len(pictures),
                "stage": where,
                "outputs": description.outputs,
            }
            keep(format, {**asdict(parity), **found})


def cell(parity: dict) -> str:
    """Detections matched, and the largest differences."""
    if not parity["detections"] and parity["first"]:
        return "**does not run**"
    score = max(parity["score"], parity["mask_score"])
    text = f"{parity['matched']} of {parity['detections']}: {parity['box']:.0e}, {score:.0e}"
    if "masks" in parity["outputs"]:
        text += f", {1 - parity['mask_iou']:.0e}"
    if "keypoints" in parity["outputs"]:
        text += f", points {parity['keypoint']:.0e}"
    return f"**{text}**" if parity["first"] else text


def stored(path: Path) -> dict[str, dict[str, dict]]:
    """Model and format of the cells that there are, in the order of `CASES`, trained models last."""
    cells = json.loads(path.read_text()) if path.is_file() else {}
    order = [f"{name}, random" for name in CASES]
    return dict(sorted(cells.items(), key=lambda row: order.index(row[0]) if row[0] in order else len(order)))


def table(cells: dict[str, dict[str, dict]]) -> str:
    formats = [format for format in WRITERS if any(format in row for row in cells.values())]
    rows = [
        [name, *(cell(row[format]) if format in row else "not run" for format in formats)]
        for name, row in cells.items()
    ]
    text = tabulate(rows, ["model", *formats], tablefmt="github", disable_numparse=True)
    failed = [
        f"- {name}, {format}: {one['first']}; first stage that differs: {one['stage']}"
        for name, row in cells.items()
        for format, one in row.items()
        if one["first"]
    ]
    return "\n".join([text, "", *failed]) + "\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--run", nargs="*", default=[], metavar="NAME=FOLDER", help="trained models")
    parser.add_argument("--only", nargs="*", choices=CASES, metavar="NAME", help="models of random weights")
    parser.add_argument("--formats", nargs="+", choices=WRITERS, default=["pt2", "onnx", "openvino"])
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--edges", type=int, nargs=2, default=[320, 800], help="shorter side, pixels")
    parser.add_argument("--image-size", default="480x640", metavar="HxW", help="of AOTInductor packages")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    height, _, width = args.image_size.partition("x")
    fixed = (int(height), int(width))
    pictures = read(args.images, args.pictures, tuple(args.edges))
    cells = stored(args.output)
    names = list(CASES) if args.only is None and not args.run else args.only or []
    builders: dict[str, Callable[[], Subject]] = {}
    for name in names:
        builders[f"{name}, random"] = lambda name=name: untrained(CASES[name](), pictures[0][1])
    for pair in args.run:
        name, _, folder = pair.partition("=")
        builders[f"{name}, trained"] = lambda folder=folder: trained(folder)
    for name, build in builders.items():
        missing = [format for format in args.formats if format not in cells.get(name, {})]

        def keep(format: str, found: dict, name: str = name) -> None:
            # Another process may add to the file.
            cells = stored(args.output)
            cells.setdefault(name, {})[format] = found
            print(f"{name}, {format}: {cell(found)} {found['first']} {found['stage']}", flush=True)
            write_atomically(args.output, json.dumps(cells, indent=1).encode())
            write_atomically(args.output.with_suffix(".md"), table(cells).encode())

        if missing:
            measure(build(), pictures, missing, fixed, keep)
    cells = stored(args.output)
    print(table(cells))
    return 1 if any(one["first"] for row in cells.values() for one in row.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
