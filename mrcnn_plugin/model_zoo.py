"""The configs of this package by name, for those who have no checkout of it at hand.

from mrcnn_plugin import model_zoo
cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig


def config_root() -> Path:
    """The folder of the configs: `configs/` of a checkout, or `mrcnn_plugin/configs` of an installation."""
    return Path(str(files("mrcnn_plugin.configs")))


def project_root() -> Path:
    """The folder of the projects: `projects/` of a checkout, `mrcnn_plugin/projects` of an installation."""
    return Path(str(files("mrcnn_plugin.projects")))


def _paths() -> dict[str, Path]:
    """Name -> path of every config and of every piece under common/ that configs are made of."""
    configs, projects = config_root(), project_root()
    paths = {path.relative_to(configs).as_posix(): path for path in configs.glob("*/**/*.py")}
    for path in projects.glob("*/configs/*/**/*.py"):
        paths[f"projects/{path.relative_to(projects).as_posix()}"] = path
    return {name: paths[name] for name in sorted(paths)}


def list_configs() -> list[str]:
    """Names of all configs: relative to `config_root()`, and those of projects from "projects/" on."""
    return [name for name in _paths() if "common" not in Path(name).parts]


def get_config_file(config_path: str) -> str:
    """Path of a config, or of a piece that configs are made of.

    Args:
        config_path: its name as `list_configs()` gives it, or the name of a piece, such as
            "common/models/mask_rcnn_fpn.py"; ".py" may be left out.

    Raises:
        FileNotFoundError: no config has that name; the message names those that come nearest.
    """
    name = config_path if config_path.endswith(".py") else f"{config_path}.py"
    paths = _paths()
    if name not in paths:
        near = difflib.get_close_matches(name, paths, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(list_configs())}"
        raise FileNotFoundError(f"mrcnn_plugin has no config {config_path!r}; {hint}")
    return str(paths[name])


def get_config(config_path: str) -> DictConfig:
    """Loads a config: `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`, not yet instantiated.

    Each call returns a copy of its own, to be changed at will. Of a piece it returns the nodes that the piece
    defines (`get_config("common/models/mask_rcnn_fpn.py").model`), not its functions.

    Args:
        config_path: as for `get_config_file`.
    """
    return LazyConfig.load(get_config_file(config_path))
