"""Data sets: the built-in ones, COCO-format ones from the command line, and checks before training."""

from mrcnn_plugin.errors import DatasetError

from .albumentations_piece import Albumentations
from .checks import DatasetReport, check_datasets
from .cityscapes import check_cityscapes, register_cityscapes
from .coco_summary import CocoSummary, summarize
from .copy_paste import CopyPasteMapper
from .metadata import load_metadata, metadata_fields, metadata_of, save_metadata
from .registration import (
    CUSTOM_PREFIX,
    as_names,
    datasets_root,
    ensure_registered,
    register_shapes,
    register_shapes_set,
)
from .resumable_loader import ResumableLoader
from .sampling import repeat_factor_sampler
from .seeding import kept_generators, seed_generators
from .semantic import ensure_semantic_labels, register_semantic, register_semantic_sets
from .split import hold_out

__all__ = [
    "CUSTOM_PREFIX",
    "Albumentations",
    "CocoSummary",
    "CopyPasteMapper",
    "DatasetError",
    "DatasetReport",
    "ResumableLoader",
    "as_names",
    "check_cityscapes",
    "check_datasets",
    "datasets_root",
    "ensure_registered",
    "ensure_semantic_labels",
    "hold_out",
    "kept_generators",
    "load_metadata",
    "metadata_fields",
    "metadata_of",
    "register_cityscapes",
    "register_semantic",
    "register_semantic_sets",
    "register_shapes",
    "register_shapes_set",
    "repeat_factor_sampler",
    "save_metadata",
    "seed_generators",
    "summarize",
]

register_shapes()
register_cityscapes()
register_semantic_sets()
