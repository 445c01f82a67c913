"""Files of a lower precision than float32, and whether they lose too little to matter."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils

from mrcnn_plugin.config import RunConfig
from mrcnn_plugin.data.images import IMAGE_ERRORS, unreadable
from mrcnn_plugin.errors import ConfigError, first_line
from mrcnn_plugin.predict import find_inputs
from mrcnn_plugin.runtime import ExportedModel, load
from mrcnn_plugin.runtime.description import KEY
from mrcnn_plugin.runtime.loading import extra

from .accuracy import NAMES, AnnotatedPictures
from .quantization import layers_of, quantize
from .sensitivity import RUN, Group, harmless_groups

#: The precisions of `--precision`.
PRECISIONS = ("fp32", "fp16", "int8")
#: Most pictures that ranges are taken from: more hardly move them.
MOST_PICTURES = 200
# That ranges are taken from while layers are measured that lose AP.
_SEARCH_PICTURES = 20
# NNCF's own; quantized ONNX files and torch.export programs were not tried.
_FORMAT = "openvino"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `requested_precision` reads."""
    group = parser.add_argument_group("lower precision (--format openvino)")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16: weights of 16 bits; int8: weights and maps of 8 bits, calibrated on --calibration",
    )
    group.add_argument("--calibration", metavar="FOLDER", help="pictures like those that will come, for int8")
    group.add_argument(
        "--annotations",
        metavar="FILE.json[:FOLDER]",
        help="COCO annotations to compare AP on before and after; FOLDER of their pictures, by default that "
        "of --calibration",
    )
    group.add_argument(
        "--max-ap-loss",
        type=float,
        metavar="X",
        help="write nothing where box, mask or keypoint AP (percent) falls by more; default 0.5",
    )


@dataclass(frozen=True)
class LowerPrecision:
    """What is to be written in place of a file in float32.

    Attributes:
        precision: "fp16" or "int8".
        calibration: pictures, for int8.
        annotated: on which AP is compared; None: it is not.
        max_ap_loss: of any task, in percent.
    """

    precision: str
    calibration: list[str]
    annotated: AnnotatedPictures | None
    max_ap_loss: float

    def replace(self, file: Path) -> bool:
        """Puts the first file that loses little enough in the place of a float32 one; prints what is lost.

        Args:
            file: of `--format openvino`, in float32.

        Returns:
            Whether there was one; else the float32 file stays.
        """
        before = self._average_precision(file, "float32", None)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder, file.name)
            for level in self._attempts(file, part, before):
                after = self._average_precision(part, self.precision, before)
                if self._is_good(before, after):
                    print(f"  kept: {level}")
                    for one in Path(folder).iterdir():
                        os.replace(one, file.parent / one.name)
                    return True
        return False

    def _attempts(self, source: Path, target: Path, before: dict[str, float]) -> Iterator[str]:
        """Writes one file after the other, each less daring, and says in words what it is."""
        model = load(source)
        if self.precision == "fp16":
            print("writing fp16", flush=True)
            _write_fp16(source, target, model)
            yield "weights of 16 bits"
            return
        names = [layer.name for layer in layers_of(source)]
        searching = self.calibration[:: max(1, len(self.calibration) // _SEARCH_PICTURES)]

        def write(only: Collection[str], what: str, pictures: list[str] = self.calibration) -> str:
            print(f"writing int8, {what}", flush=True)
            quantize(source, target, model.description, pictures, _reader(model), only=only)
            return what

        def loss_of(group: Group) -> float:
            write(group.layers, f"{group.name} alone", searching)
            return _largest_loss(before, self._average_precision(target, self.precision, before))

        yield write(names, "all layers")
        if len(names) > RUN:
            yield write(names[RUN:], f"all but the first {RUN} layers")
        # As many groups again may lose a little each.
        kept = harmless_groups(layers_of(source), loss_of, self.max_ap_loss / 2)
        while kept:
            chosen = [name for group in kept for name in group.layers]
            yield write(chosen, f"{len(chosen)} of {len(names)} layers")
            kept.pop()

    def _average_precision(self, file: Path, title: str, before: dict[str, float] | None) -> dict[str, float]:
        """AP by task; without annotations none. Prints it, and what it is less than `before`."""
        if self.annotated is None:
            return {}
        found = self.annotated.average_precision(file, title)
        for task, value in found.items():
            change = "" if before is None else f"  ({value - before.get(task, 0.0):+.2f})"
            print(f"  {title + ', ' + NAMES[task]:40}{value:.2f}{change}", flush=True)
        return found

    def _is_good(self, before: dict[str, float], after: dict[str, float]) -> bool:
        if self.annotated is None:
            print("  AP was not compared: give --annotations to see what is lost")
            return True
        loss = _largest_loss(before, after)
        if loss > self.max_ap_loss:
            print(f"  {loss:.2f} AP lost, more than --max-ap-loss {self.max_ap_loss:g}")
        return loss <= self.max_ap_loss


def requested_precision(
    args: argparse.Namespace, config: RunConfig, metadata: Metadata
) -> LowerPrecision | None:
    """What the options of `add_arguments` ask for; None for float32.

    Raises:
        ConfigError: they do not fit each other, the format or the model, or name nothing.
        DatasetError: annotations that cannot be read.
    """
    _check(args)
    if args.precision == "fp32":
        return None
    calibration = _spread(args.calibration) if args.calibration else []
    annotated = None
    if args.annotations:
        file, _, folder = args.annotations.rpartition(":")
        if not file:
            file, folder = args.annotations, args.calibration or str(Path(args.annotations).parent)
        max_dets = config.expected_of_data().max_dets
        annotated = AnnotatedPictures(file, folder, list(metadata.get("thing_classes", ())), max_dets)
    max_ap_loss = 0.5 if args.max_ap_loss is None else args.max_ap_loss
    return LowerPrecision(args.precision, calibration, annotated, max_ap_loss)


def _check(args: argparse.Namespace) -> None:
    if args.precision != "fp32" and args.format != _FORMAT:
        raise ConfigError(
            f"--precision {args.precision} is there for --format {_FORMAT} only, got --format {args.format}"
        )
    if args.precision == "int8" and not args.calibration:
        raise ConfigError("--precision int8 needs --calibration FOLDER, pictures like those that will come")
    if args.precision != "int8" and args.calibration:
        raise ConfigError(f"--calibration goes with --precision int8, not with {args.precision}")
    if args.precision == "fp32" and args.annotations:
        raise ConfigError("--annotations go with --precision fp16 or int8")
    if args.max_ap_loss is not None and not args.annotations:
        raise ConfigError("--max-ap-loss needs --annotations FILE.json")
    if args.max_ap_loss is not None and not args.max_ap_loss >= 0:
        raise ConfigError(f"--max-ap-loss must be at least 0, got {args.max_ap_loss}")
    if args.precision == "int8":
        with extra("--precision int8"):
            import nncf  # noqa: F401


def _largest_loss(before: dict[str, float], after: dict[str, float]) -> float:
    # A file that finds nothing has no AP of masks.
    return max(before[task] - after.get(task, 0.0) for task in before)


def _spread(folder: str) -> list[str]:
    """At most MOST_PICTURES of a folder's, from all over it."""
    files = [file.path for file in find_inputs([folder])[0]]
    if not files:
        raise ConfigError(f"--calibration {folder}: no pictures found")
    index = np.linspace(0, len(files) - 1, min(len(files), MOST_PICTURES)).round().astype(int)
    return [files[i] for i in index]


def _reader(model: ExportedModel) -> Callable[[str], np.ndarray]:
    def read(file: str) -> np.ndarray:
        try:
            image = utils.read_image(file, format="RGB")
        except IMAGE_ERRORS as error:
            raise ConfigError(f"--calibration: {file}: {unreadable(file) or first_line(error)}") from error
        return model.prepare(np.asarray(image, dtype=np.uint8))[0]

    return read


def _write_fp16(source: Path, target: Path, model: ExportedModel) -> None:
    import openvino

    program: Any = openvino.Core().read_model(source)
    program.set_rt_info(dataclasses.replace(model.description, precision="fp16").to_json(), KEY)
    openvino.save_model(program, target, compress_to_fp16=True)
