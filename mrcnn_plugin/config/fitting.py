"""What a config takes from the machine and from its data before a run: device, classes, keypoints."""

from __future__ import annotations

import torch
from detectron2.data import Metadata, MetadataCatalog

from mrcnn_plugin.data import CUSTOM_PREFIX, ensure_registered
from mrcnn_plugin.errors import ConfigError, first_line

from .run_config import RunConfig


def fit_to_device(config: RunConfig, device: str = "") -> str | None:
    """Sets the device: `device` where it is given, else the config's own; CUDA needs a GPU to be kept.

    Returns:
        A line that says so where the config's own could not be kept, or had to be chosen; else None.

    Raises:
        ConfigError: torch cannot use `device`, or what the config gives.
    """
    if device:
        _check_device(device, f"--device {device}")
        config.device = device
        return None
    given = config.device
    wants_cuda = given.startswith("cuda")
    if given not in ("", "auto") and (not wants_cuda or torch.cuda.is_available()):
        if not wants_cuda:
            _check_device(given, f"{config.keys.device} {given!r}")
        return None
    config.device = "cuda" if torch.cuda.is_available() else "cpu"
    why = f"no CUDA device for {given!r}" if wants_cuda else "none was given"
    return f"Running on {config.device!r} ({why})"


def _check_device(device: str, given: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"{given}: {first_line(error)}") from error


def fit_to_dataset(config: RunConfig) -> list[str]:
    """Registers the config's data sets, and gives the model the classes and keypoints of one's own data.

    Sets known by name have their numbers in their configs already; what the command line has set stays.

    Returns:
        A line for each number that was set.

    Raises:
        DatasetError: a set is unknown, or a file that names one is missing or malformed.
    """
    names = [*config.train_names, *config.test_names]
    ensure_registered(names)
    custom = next((name for name in names if name.startswith(CUSTOM_PREFIX)), None)
    if custom is None:
        return []
    lines = []
    for field, what, set_number in (
        ("thing_classes", "classes", config.set_num_classes),
        ("keypoint_names", "keypoints", config.set_num_keypoints),
    ):
        found = MetadataCatalog.get(custom).get(field)
        changed = set_number(len(found)) if found else []
        if changed:
            shown = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
            lines.append(f"{' and '.join(changed)} = {len(found)}, the {what} of {custom}: {shown}")
    return lines


def dataset_metadata(config: RunConfig) -> Metadata:
    """Metadata of the config's first test set, or training set where it has no other."""
    return MetadataCatalog.get(next(iter([*config.test_names, *config.train_names]), "__no_dataset__"))
