"""Command line: `python -m mrcnn_plugin.data.convert FORMAT SOURCE -o OUT.json`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.data.checks import check_datasets
from mrcnn_plugin.errors import DatasetError

from .annotation_set import AnnotationSet, Options, absolute
from .coco import read_coco
from .labelme import read_labelme
from .mask_folders import read_dsb2018, read_pennfudan
from .masks import FORMS
from .writing import check_outputs, subset_path, write_coco
from .yolo import read_yolo

PROG = "python -m mrcnn_plugin.data.convert"
NAMED = 5
EXAMPLES = f"""examples:
  {PROG} yolo my/yolo -o my/coco.json
  {PROG} labelme my/labelme -o my/coco.json --val 0.2 --copy-images my/images
  {PROG} dsb2018 stage1_train -o nuclei.json --val 0.2 --seed 1
  {PROG} pennfudan PennFudanPed -o pedestrians.json --masks polygon
  {PROG} coco a.json:a/images b.json:b/images -o both.json

Train on the result as dataloader.train.dataset.names=coco:OUT.json:IMAGE_ROOT; both names are printed.
docs/data_formats.md shows the folders of each format, and what is kept of it."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog=PROG,
        description="Convert annotations to one COCO JSON, checked and ready to train on.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    formats = result.add_subparsers(dest="format", required=True, metavar="FORMAT")
    common = common_options()

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return formats.add_parser(name, parents=[common], help=text, description=text)

    coco = add("coco", "COCO JSON of others: complete it, merge several, split")
    coco.add_argument(
        "source", nargs="+", metavar="JSON[:IMAGE_ROOT]", help="default root: images/ beside it"
    )
    boxes = "instances that are only a box: keep them without a mask, or take the rectangle as their mask"
    coco.add_argument("--boxes", choices=("keep", "rectangle"), default="keep", help=boxes)
    yolo = add("yolo", "YOLO segmentation: images/, labels/ and data.yaml")
    yolo.add_argument("source", metavar="FOLDER", help="the folder, or its data.yaml")
    boxes = "labels that are only a box: an error, or take the rectangle as the mask"
    yolo.add_argument("--boxes", choices=("error", "rectangle"), default="error", help=boxes)
    yolo.add_argument("--one-file", action="store_true", help="join the train, val and test of data.yaml")
    labelme = add("labelme", "LabelMe: a JSON file beside each picture")
    labelme.add_argument("source", metavar="FOLDER")
    labelme.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="in the order of their ids (default: sorted)"
    )
    dsb2018 = add("dsb2018", "2018 Data Science Bowl: ID/images/ID.png and ID/masks/*.png")
    dsb2018.add_argument("source", metavar="FOLDER")
    pennfudan = add("pennfudan", "Penn-Fudan: PNGImages/NAME.png and PedMasks/NAME_mask.png of instance ids")
    pennfudan.add_argument("source", metavar="FOLDER")
    pennfudan.add_argument("--image-folder", default="PNGImages", help="default: %(default)s")
    pennfudan.add_argument("--mask-folder", default="PedMasks", help="default: %(default)s")
    pennfudan.add_argument("--mask-suffix", default="_mask", help="default: %(default)s")
    for masks, name in ((dsb2018, "nucleus"), (pennfudan, "person")):
        masks.add_argument("--class", dest="classes", nargs=1, default=[name], help=f"default: {name}")
    return result


def common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-o", "--out", required=True, metavar="OUT.json", help="the COCO JSON to write")
    common.add_argument(
        "--val",
        type=fraction,
        metavar="FRACTION",
        help="hold out this part of the pictures: OUT_train.json, OUT_val.json",
    )
    common.add_argument("--seed", type=int, default=0, help="of --val (default: %(default)s)")
    common.add_argument("--copy-images", metavar="DIR", help="copy the pictures; else they stay in place")
    common.add_argument(
        "--masks",
        choices=FORMS,
        default="auto",
        help="force polygons or RLE; auto: polygons, but RLE for masks with holes",
    )
    common.add_argument(
        "--orientation",
        choices=("auto", "upright", "stored"),
        default="auto",
        help="of annotations of EXIF-rotated pictures; auto: told by the annotated size, else upright",
    )
    common.add_argument("--skip-missing", action="store_true", help="leave out pictures that cannot be read")
    common.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return common


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a part of the pictures between 0 and 1, got {text}")
    return value


def read(args: argparse.Namespace) -> AnnotationSet:
    """The annotations that the command line names."""
    options = Options(
        args.masks,
        args.orientation,
        getattr(args, "boxes", None) == "rectangle",
        args.skip_missing,
        tuple(getattr(args, "classes", ())),
    )
    if args.format == "pennfudan":
        folders = {key: getattr(args, key) for key in ("image_folder", "mask_folder", "mask_suffix")}
        return read_pennfudan(args.source, options, **folders)
    readers = {"coco": read_coco, "yolo": read_yolo, "labelme": read_labelme, "dsb2018": read_dsb2018}
    return readers[args.format](args.source, options)


def report(found: AnnotationSet, written: list[tuple[Path, Path]], out: Path) -> None:
    """Print what was written, left out and is worth knowing, with the names to train on."""
    reasons = [("left out", *item) for item in found.skipped.items() if item[1]]
    reasons += [("note", *item) for item in found.notes.items() if item[1]]
    for title, reason, names in reasons:
        shown = ", ".join(map(printable, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
        print(f"{title}: {len(names)} {reason}: {shown}")
    if any(len(names) > NAMED for _, _, names in reasons):
        path = out.with_name(f"{out.stem}_left_out.txt")
        lines = [
            f"{title}: {reason}: {printable(name)}\n" for title, reason, names in reasons for name in names
        ]
        write_atomically(path, "".join(lines).encode())
        print(f"all of these names are in {printable(str(path))}")
    names = [f"coco:{json_file}:{image_root}" for json_file, image_root in written]
    checked = check_datasets(names, training=False)
    print(checked)
    print("\nto train or evaluate on:", *map(printable, names), sep="\n  ")
    rle = sum(summary.rle_mask for summary in checked.summaries.values() if summary is not None)
    if rle:
        print(
            f"{rle} masks are RLE: train with dataloader.train.mapper.instance_mask_format=bitmask "
            "(YAML: INPUT.MASK_FORMAT bitmask), or convert with --masks polygon"
        )


def printable(text: str) -> str:
    """Text in which the bytes of a file name that is not UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts as the command line says. The exit status: 0, or 2 after an error, printed as one line."""
    args = parser().parse_args(arguments)
    try:
        out = absolute(args.out)
        planned = [out] if args.val is None else [subset_path(out, name) for name in ("train", "val")]
        check_outputs(planned, args.overwrite)
        found = read(args)
        written = write_coco(
            found,
            out,
            val_fraction=args.val,
            seed=args.seed,
            one_file=getattr(args, "one_file", False),
            copy_images=args.copy_images,
            overwrite=args.overwrite,
        )
        report(found, written, out)
    except (DatasetError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0
