"""Checks of data sets before training: a table of what they hold, or one line that says what to fix."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.data import Metadata, MetadataCatalog
from tabulate import tabulate

from mrcnn_plugin.errors import DatasetError

from .cityscapes import check_cityscapes
from .coco_summary import COCO_KEYPOINTS, DEFAULT_OKS_SIGMA, CocoSummary, summarize
from .images import IMAGE_ERRORS, deep_mode
from .registration import CUSTOM_PREFIX, DRAWN_SETS, as_names, datasets_root, ensure_registered

COCO_EVALUATORS = ("coco", "lvis")
CITYSCAPES_EVALUATORS = {"cityscapes_instance": "instance_seg", "cityscapes_sem_seg": "sem_seg"}
FOLDER_KEYS = ("image_root", "image_dir", "gt_dir", "gt_root", "panoptic_root", "sem_seg_root", "dirname")
MAX_CLASS_ROWS = 100
# So many images of a data set, or a few more, have their headers read.
LOOKED_AT = 16
SAME_CLASSES = 'give "categories" the same names in the same order of ids'


@dataclass
class DatasetReport:
    """What `check_datasets` found; str() is the table for the log.

    Attributes:
        summaries: by data set name; None for those not in COCO format, whose folders alone were checked.
        warnings: what to know that does not stop training.
    """

    summaries: dict[str, CocoSummary | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counted = {name: summary for name, summary in self.summaries.items() if summary is not None}
        others = [f"{name}: not in COCO format, annotations not checked" for name in self.summaries]
        others = [line for name, line in zip(self.summaries, others) if name not in counted]
        tables = [overview(counted)] if counted else []
        tables += [class_table(name, summary) for name, summary in counted.items() if summary.annotated]
        return "\n".join([*tables, *others, *(f"warning: {text}" for text in self.warnings)])


def title_of(name: str) -> str:
    """A data set's name, without the folders of one's own data."""
    if not name.startswith(CUSTOM_PREFIX):
        return name
    return CUSTOM_PREFIX + os.path.basename(MetadataCatalog.get(name).json_file)


def overview(summaries: dict[str, CocoSummary]) -> str:
    """One column per data set."""
    rows = {
        "images": "images",
        "without annotations": "empty_images",
        "instances": "instances",
        "crowd regions": "crowd",
        "keypoints": "keypoints",
        "degenerate boxes": "degenerate_boxes",
        "polygons of < 3 points": "short_polygons",
        "annotations of unlisted images": "orphans",
    }
    values = [[title, *(getattr(s, key) for s in summaries.values())] for title, key in rows.items()]
    return tabulate(values, headers=["", *map(title_of, summaries)], tablefmt="github")


def class_table(name: str, summary: CocoSummary) -> str:
    """Counts of each class; of very many only the most frequent ones."""
    rows = [
        [category["name"], counts.images, counts.instances, counts.crowd, counts.keypoints]
        for category, counts in zip(summary.categories, summary.classes)
    ]
    left_out = len(rows) - MAX_CLASS_ROWS
    if left_out > 0:
        rows = sorted(rows, key=lambda row: -row[2])[:MAX_CLASS_ROWS]
    table = tabulate(rows, ["class", "images", "instances", "crowd", "keypoints"], tablefmt="github")
    return f"\n{title_of(name)}\n{table}" + (f"\n({left_out} rarer classes)" if left_out > 0 else "")


def check_datasets(
    names: str | Iterable[str],
    *,
    num_classes: int | None = None,
    class_names: Iterable[str] | None = None,
    num_keypoints: int | None = None,
    needs_masks: bool = False,
    mask_format: str = "polygon",
    max_dets: int | None = None,
    training: bool = True,
    cache_dir: str | os.PathLike | None = None,
) -> DatasetReport:
    """Checks data sets against a model before any time is spent on training.

    Args:
        names: registered, built-in (drawn if need be) or of the form coco:ANNOTATIONS.json:IMAGE_ROOT.
        num_classes, num_keypoints: of the model's heads; None leaves them unchecked.
        class_names: the classes in the order that the model knows them.
        needs_masks: whether the model has a mask head.
        mask_format: the mapper's instance_mask_format, "polygon" or "bitmask".
        max_dets: how many detections of an image are scored; None leaves that unchecked.
        training: False for sets that are only evaluated, which may lack instances.
        cache_dir: where the counts of unchanged files are kept; None for `default_cache_dir()`.

    Raises:
        DatasetError: a set cannot be used; one line that names the file and how to fix it.
    """
    names = as_names(names)
    ensure_registered(names)
    report = DatasetReport()
    for name in names:
        summary = check_files(name, cache_dir)
        report.summaries[name] = summary
        if summary is not None:
            source = Source(name, summary)
            source.check_classes(num_classes, class_names, report.warnings)
            if num_keypoints is not None:
                source.check_keypoints(num_keypoints, training, report.warnings)
            if training:
                source.check_instances(needs_masks, mask_format, report.warnings)
            elif max_dets is not None:
                source.check_density(max_dets, report.warnings)
    check_same_classes(report.summaries)
    return report


def check_files(name: str, cache_dir: str | os.PathLike | None) -> CocoSummary | None:
    """Checks that the files of a data set exist; its summary, None where it is not in COCO format."""
    if name in DRAWN_SETS:
        try:
            DRAWN_SETS[name]()
        except OSError as error:
            raise DatasetError(
                f"{MetadataCatalog.get(name).get('json_file', name)}: cannot be drawn ({error}); "
                "set DETECTRON2_DATASETS to a folder that can be written"
            ) from error
    metadata = MetadataCatalog.get(name)
    for key in FOLDER_KEYS:
        folder = metadata.get(key)
        if isinstance(folder, (str, os.PathLike)) and is_local(folder) and not os.path.isdir(folder):
            raise DatasetError(f"{folder}: no such folder, the {key} of {name}; {path_fix(name, folder)}")
    evaluator = metadata.get("evaluator_type", "coco")
    if evaluator == "lvis" and importlib.util.find_spec("lvis") is None:
        raise DatasetError(
            f"{name}: Detectron2 reads and scores LVIS with the lvis package, which is not installed: "
            "pip install --no-deps lvis"
        )
    if evaluator in CITYSCAPES_EVALUATORS and is_local(metadata.image_dir):
        check_cityscapes(metadata.image_dir, metadata.gt_dir, CITYSCAPES_EVALUATORS[evaluator])
    json_file = metadata.get("json_file")
    if json_file is None or evaluator not in COCO_EVALUATORS:
        return None
    if not is_local(json_file):
        return None
    if not os.path.isfile(json_file):
        raise DatasetError(
            f"{json_file}: no such file, the annotations of {name}; {path_fix(name, json_file)}"
        )
    summary = summarize(json_file, cache_dir, lvis=metadata.get("evaluator_type") == "lvis")
    check_images(name, summary, metadata)
    return summary


def is_local(path: str | os.PathLike) -> bool:
    return "://" not in os.fspath(path)


def path_fix(name: str, path: str | os.PathLike) -> str:
    """How to fix a path of a data set that does not exist."""
    if name.startswith(CUSTOM_PREFIX):
        return f"correct the path in the data set's name, {CUSTOM_PREFIX}ANNOTATIONS.json:IMAGE_ROOT"
    root = datasets_root()
    if Path(root).absolute() in Path(path).absolute().parents:
        inner = os.path.relpath(path, root)
        return f"set DETECTRON2_DATASETS (now {root!r}) to the folder that holds {inner}"
    return f"correct the path with which {name} was registered"


def check_images(name: str, summary: CocoSummary, metadata: Metadata) -> None:
    """Raises a DatasetError unless every listed image lies under the image root. One look at each folder."""
    root = metadata.image_root
    if not is_local(root):
        return
    missing = []
    for folder, listed in summary.files.items():
        path = os.path.join(root, folder)
        present = {entry.name for entry in os.scandir(path)} if os.path.isdir(path) else set()
        missing += [os.path.join(path, image) for image in listed if image not in present]
    if missing:
        others = f" (nor are {len(missing) - 1} others of {summary.images})" if len(missing) > 1 else ""
        raise DatasetError(
            f"{missing[0]}: no such image{others}, but {metadata.json_file} lists it; "
            f"copy the images there, or {path_fix(name, root)}"
        )
    listed = [
        os.path.join(root, folder, image) for folder, images in summary.files.items() for image in images
    ]
    for image in listed[:: max(1, len(listed) // LOOKED_AT)]:
        check_depth(image)


def check_depth(image: str) -> None:
    """Raises a DatasetError where an image has more than 8 bits; one that cannot be opened is passed over."""
    try:
        deep = deep_mode(image)
    except IMAGE_ERRORS:
        return
    if deep:
        raise DatasetError(
            f"{image}: its pixels are {deep}, which would be cut off at 255; convert the images to 8 bits, "
            "scaled as you want them seen"
        )


class Source:
    """A data set whose summary is compared with what the model expects."""

    def __init__(self, name: str, summary: CocoSummary) -> None:
        self.name, self.summary = name, summary
        self.json_file = MetadataCatalog.get(name).json_file

    def error(self, message: str) -> DatasetError:
        return DatasetError(f"{self.json_file}: {message}")

    def check_classes(
        self, num_classes: int | None, class_names: Iterable[str] | None, warnings: list[str]
    ) -> None:
        own = self.summary.class_names
        metadata = MetadataCatalog.get(self.name)
        registered = metadata.get("thing_classes")
        # LVIS classes are known by a synonym of their name.
        if registered is not None and metadata.get("evaluator_type") != "lvis" and list(registered) != own:
            raise self.error(
                f"its classes are not those known for {self.name} ({difference(own, registered)}); "
                f"use {CUSTOM_PREFIX}{self.json_file}:{metadata.image_root} instead"
            )
        if class_names is not None and list(class_names) != own:
            raise self.error(
                f"its classes are not those of the model ({difference(own, list(class_names))}); "
                f"{SAME_CLASSES}"
            )
        if num_classes is None or num_classes == len(own):
            return
        fix = f"set model.roi_heads.num_classes={len(own)} (YAML: MODEL.ROI_HEADS.NUM_CLASSES {len(own)})"
        if num_classes < len(own):
            unknown = ", ".join(own[num_classes:][:3]) + (", ..." if len(own) > num_classes + 3 else "")
            raise self.error(f"has {len(own)} classes, the model {num_classes}: it lacks {unknown}; {fix}")
        warnings.append(f"{self.json_file} has {len(own)} classes, the model {num_classes}; {fix} to match")

    def check_keypoints(self, num_keypoints: int, training: bool, warnings: list[str]) -> None:
        names = MetadataCatalog.get(self.name).get("keypoint_names")
        if not names:
            with_keypoints = [c["name"] for c in self.summary.categories if c.get("keypoints")]
            reason = (
                f"its classes {', '.join(with_keypoints)} have different keypoints"
                if with_keypoints
                else 'no category has "keypoints"'
            )
            raise self.error(
                f"{reason}, but the model has a keypoint head; use keypoint annotations "
                "(for COCO keypoints_coco_2017_train) or a config without keypoints"
            )
        for category in self.summary.categories:
            listed = category.get("keypoints") or names
            if len(listed) != num_keypoints:
                raise self.error(
                    f"its class {category['name']!r} has {len(listed)} keypoints, the model {num_keypoints}; "
                    f"set model.roi_heads.keypoint_head.num_keypoints={len(listed)} "
                    f"(YAML: MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(listed)})"
                )
        if training and self.summary.keypoints == 0:
            raise self.error(
                "not one keypoint is labelled, but the model has a keypoint head; "
                "use annotations that have some, or a config without keypoints"
            )
        sigmas = MetadataCatalog.get(self.name).get("keypoint_oks_sigmas")
        if sigmas is not None and len(sigmas) != num_keypoints:
            raise self.error(f'"keypoint_sigmas" has {len(sigmas)} numbers, expected {num_keypoints}')
        if num_keypoints != COCO_KEYPOINTS and sigmas is None:
            warnings.append(
                f"COCO's OKS sigmas are for {COCO_KEYPOINTS} keypoints: these {num_keypoints} are scored "
                f"with {DEFAULT_OKS_SIGMA} each; for others set dataloader.evaluator.kpt_oks_sigmas "
                '(YAML: TEST.KEYPOINT_OKS_SIGMAS), or "keypoint_sigmas" of the category'
            )

    def check_density(self, max_dets: int, warnings: list[str]) -> None:
        if self.summary.densest > max_dets:
            warnings.append(
                f"{self.json_file}: an image holds {self.summary.densest} instances, but only {max_dets} "
                "detections per image are scored, which caps AP; set dataloader.evaluator.max_dets_per_image "
                "and model.roi_heads.box_predictor.test_topk_per_image (YAML: TEST.DETECTIONS_PER_IMAGE)"
            )

    def check_instances(self, needs_masks: bool, mask_format: str, warnings: list[str]) -> None:
        summary = self.summary
        if not summary.annotated:
            raise self.error('has no "annotations" (an image list of a test set?); train on another data set')
        if summary.instances == 0:
            raise self.error("not one instance to learn from; train on another data set")
        if needs_masks and summary.no_mask:
            raise self.error(
                f"{summary.no_mask} of {summary.instances} instances have no segmentation, "
                "but the model has a mask head; add polygons, remove them, or use a config without masks"
            )
        if needs_masks and mask_format == "polygon" and summary.rle_mask:
            raise self.error(
                f"{summary.rle_mask} of {summary.instances} masks are RLE, but the config reads polygons; "
                "set dataloader.train.mapper.instance_mask_format=bitmask (YAML: INPUT.MASK_FORMAT bitmask)"
            )
        for count, what in (
            (summary.degenerate_boxes, "boxes without area in the image"),
            (summary.short_polygons, "polygons of fewer than 3 points"),
            (summary.orphans, "annotations of images that are not listed"),
        ):
            if count:
                warnings.append(f"{self.json_file}: {count} {what} are left out of training")


def difference(own: list[str], expected: list[str]) -> str:
    """The first class at which two lists differ, in words."""
    for index, (one, other) in enumerate(zip(own, expected)):
        if one != other:
            close = difflib.get_close_matches(one, expected, 1)
            hint = f", where {close[0]!r} exists" if close and close[0] != other else ""
            return f"class {index} is {one!r}, expected {other!r}{hint}"
    return f"{len(own)} classes, expected {len(expected)}"


def check_same_classes(summaries: dict[str, CocoSummary | None]) -> None:
    """A model has one list of classes: raise a DatasetError where the data sets disagree."""
    counted = [(name, summary.class_names) for name, summary in summaries.items() if summary is not None]
    for name, classes in counted[1:]:
        first, expected = counted[0]
        if classes != expected:
            raise DatasetError(
                f"{MetadataCatalog.get(name).json_file}: its classes are not those of {first} "
                f"({difference(classes, expected)}); {SAME_CLASSES}"
            )
