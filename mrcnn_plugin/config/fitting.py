"""What happens to a config's datasets before training: registration, class counts, checks."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils import comm
from omegaconf import OmegaConf

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.data import check_datasets, ensure_registered
from mrcnn_plugin.errors import DatasetError

from .loading import Config, as_list

logger = logging.getLogger(__name__)

# Named in a config or on the command line by their files: coco:ANNOTATIONS.json:IMAGE_ROOT.
_CUSTOM_PREFIX = "coco:"

# What follows from the data: metadata field -> keys of a LazyConfig, keys of a CfgNode, what it counts.
_COUNTS = (
    (
        "thing_classes",
        ("model.roi_heads.num_classes", "model.num_classes"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES"),
        "classes",
    ),
    (
        "keypoint_names",
        ("model.roi_heads.keypoint_head.num_keypoints",),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",),
        "keypoints",
    ),
)


_SAVED_METADATA = (
    "thing_classes",
    "thing_colors",
    "thing_dataset_id_to_contiguous_id",
    "keypoint_names",
    "keypoint_flip_map",
    "keypoint_connection_rules",
)


def dataset_names(cfg: Config) -> tuple[list[str], list[str]]:
    """Names of a config's training and test sets."""
    if isinstance(cfg, CfgNode):
        return as_list(cfg.DATASETS.TRAIN), as_list(cfg.DATASETS.TEST)
    keys = ("dataloader.train.dataset.names", "dataloader.test.dataset.names")
    return tuple(as_list(OmegaConf.select(cfg, key, default=None)) for key in keys)


def register_datasets(cfg: Config) -> None:
    """Registers the sets that the config names by their files.

    Raises:
        DatasetError: such a file is missing or malformed.
    """
    train, test = dataset_names(cfg)
    ensure_registered([*train, *test])


def fit_to_dataset(cfg: Config, overridden: set[str]) -> list[str]:
    """Gives the model as many classes and keypoints as a training set named by its files has.

    Sets known by name have their numbers in their configs already, and so has what was overridden.

    Returns:
        A line for each number that was set.
    """
    train, test = dataset_names(cfg)
    custom = next((name for name in (*train, *test) if name.startswith(_CUSTOM_PREFIX)), None)
    if custom is None:
        return []
    metadata = MetadataCatalog.get(custom)
    lines = []
    for field, lazy_keys, cfgnode_keys, what in _COUNTS:
        names = metadata.get(field)
        keys = lazy_keys
        if isinstance(cfg, CfgNode):
            one_stage = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
            keys = [key for key in cfgnode_keys if ("RETINANET" in key) == one_stage]
        changed = [key for key in keys if names and key not in overridden and _set(cfg, key, len(names))]
        if changed:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            lines.append(f"{' and '.join(changed)} = {len(names)}, the {what} of {custom}: {shown}")
    return lines


def dataset_metadata(cfg: Config) -> Metadata:
    """Metadata of the config's first test set, or training set where it has no other."""
    train, test = dataset_names(cfg)
    return MetadataCatalog.get(next(iter([*test, *train]), "__no_dataset__"))


def save_metadata(metadata: Metadata, path: str) -> None:
    """Writes what it takes to name and draw a model's output, so that predict.py needs no data set."""
    fields = {name: metadata.get(name) for name in _SAVED_METADATA if metadata.get(name) is not None}
    write_atomically(Path(path), json.dumps(fields, indent=1).encode())


def load_metadata(path: str) -> Metadata:
    """Reads what `save_metadata` wrote."""
    with open(path) as file:
        fields = json.load(file)
    ids = fields.get("thing_dataset_id_to_contiguous_id")
    if ids is not None:
        fields["thing_dataset_id_to_contiguous_id"] = {int(key): value for key, value in ids.items()}
    return Metadata().set(**fields)


def _set(cfg: Config, key: str, value: int) -> bool:
    """Sets a number that the config has; returns whether it was another one."""
    if isinstance(cfg, CfgNode):
        node, _, name = key.rpartition(".")
        for part in node.split("."):
            cfg = cfg[part]
        old = cfg.get(name)
        if old is not None:
            cfg[name] = value
    else:
        old = OmegaConf.select(cfg, key, default=None)
        if old is not None:
            OmegaConf.update(cfg, key, value)
    return old is not None and old != value


def check_on_main_process(cfg: Config, *, training: bool) -> None:
    """Checks the annotations once, on rank 0, while the other processes wait; logs what they hold.

    Args:
        training: whether the training sets are used too.

    Raises:
        DatasetError: on every process, with what rank 0 found.
    """
    problem = None
    if comm.is_main_process():
        try:
            _check(cfg, training)
        except DatasetError as error:
            problem = str(error)
    problem = comm.all_gather(problem)[0]
    if problem is not None:
        raise DatasetError(problem)


def _check(cfg: Config, training: bool) -> None:
    train, test = dataset_names(cfg)
    heads = _expected_of_data(cfg)
    sets = [(train, True), ([name for name in test if name not in train], False)]
    for names, is_train in sets if training else [(test, False)]:
        if names:
            report = check_datasets(names, training=is_train, **heads)
            logger.info(f"{'Training' if is_train else 'Test'} data:\n{report}")


def _expected_of_data(cfg: Config) -> dict[str, Any]:
    """What the model's heads and the mapper expect, as arguments of `check_datasets`."""
    if isinstance(cfg, CfgNode):
        model = cfg.MODEL
        return {
            "num_classes": model.ROI_HEADS.NUM_CLASSES,
            "num_keypoints": model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if model.KEYPOINT_ON else None,
            "needs_masks": model.MASK_ON,
            "mask_format": cfg.INPUT.MASK_FORMAT,
        }
    heads = "model.roi_heads"
    return {
        "num_classes": OmegaConf.select(cfg, f"{heads}.num_classes", default=None),
        "num_keypoints": OmegaConf.select(cfg, f"{heads}.keypoint_head.num_keypoints", default=None),
        "needs_masks": OmegaConf.select(cfg, f"{heads}.mask_head", default=None) is not None,
        "mask_format": OmegaConf.select(
            cfg, "dataloader.train.mapper.instance_mask_format", default="polygon"
        ),
    }
