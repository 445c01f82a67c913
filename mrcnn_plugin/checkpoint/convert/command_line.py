"""Command line: another library's weights, or another data set's, for Detectron2's models.

python -m mrcnn_plugin.checkpoint.convert --from torchvision IN.pth OUT.safetensors
python -m mrcnn_plugin.checkpoint.convert --to cityscapes detectron2://COCO-.../model_final.pkl OUT.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.file_io import PathManager

from mrcnn_plugin.atomic_files import replacing
from mrcnn_plugin.checkpoint.checkpointer import check_native_names
from mrcnn_plugin.checkpoint.reading import UnsafeCheckpointError, read_checkpoint

from .class_transfer import coco_to_cityscapes
from .mmdetection import convert_mmdetection
from .torchvision import convert_torchvision


def write_weights(state_dict: dict[str, torch.Tensor], path: str | Path) -> None:
    """Writes a state dict, whole or not at all: .safetensors, or .pth in the form of Detectron2's."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"the output must end in .safetensors or .pth, got {path.name}")
    state_dict = {name: value.contiguous() for name, value in state_dict.items()}
    with replacing(path) as part:
        if path.suffix == ".pth":
            torch.save({"model": state_dict}, part)
        else:
            try:
                from safetensors.torch import save_file
            except ImportError as error:
                raise ImportError(f"{path} needs the safetensors package: pip install safetensors") from error
            save_file(state_dict, part)


def tensors_of(data: Any, source: str) -> dict[str, torch.Tensor]:
    """The state dict in what `read_checkpoint` gave, whatever it is wrapped in."""
    for wrapper in ("model", "state_dict"):
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            data = data[wrapper]
    if not isinstance(data, dict) or not all(hasattr(value, "shape") for value in data.values()):
        raise ValueError(f"{source} holds no state dict (a dict of tensors by name)")
    return {name: torch.as_tensor(value) for name, value in data.items()}


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `convert_file` reads."""
    parser.add_argument("input", help="file, or a URL that Detectron2 knows (detectron2://, https://)")
    parser.add_argument("output", help=".safetensors or .pth")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="run code that the file names (only from whom you trust)"
    )


def convert_file(
    args: argparse.Namespace, convert: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> int:
    """Reads `args.input`, writes what `convert` makes of its state dict to `args.output`.

    Returns:
        The exit status: 1 after an error, which is printed in one line.
    """
    try:
        local = PathManager.get_local_path(args.input)
        state = convert(tensors_of(read_checkpoint(local, allow_pickle=args.allow_pickle), args.input))
        write_weights(state, args.output)
    except (OSError, ValueError, ImportError, UnsafeCheckpointError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(state)} tensors, {sum(t.numel() for t in state.values()):,} numbers")
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.checkpoint.convert",
        description="Converts weights to Detectron2's parameter names, or to other classes.",
    )
    add_file_arguments(parser)
    parser.add_argument(
        "--from",
        dest="library",
        choices=("detectron2", "torchvision", "mmdetection"),
        default="detectron2",
        help="whose weights they are (default: %(default)s)",
    )
    parser.add_argument("--bn-eps", type=float, help="torchvision: epsilon of the backbone's BatchNorm")
    parser.add_argument("--to", choices=("cityscapes",), help="data set whose classes COCO's shall become")
    parser.add_argument(
        "--rider",
        choices=("random", "person"),
        default="random",
        help="origin of rider (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)

    def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if args.library == "torchvision":
            state = convert_torchvision(state, bn_eps=args.bn_eps)
        elif args.library == "mmdetection":
            state = convert_mmdetection(state)
        else:
            check_native_names(state, args.input)
        return coco_to_cityscapes(state, rider=args.rider) if args.to == "cityscapes" else state

    return convert_file(args, convert)
