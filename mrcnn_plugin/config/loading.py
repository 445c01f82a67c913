"""Loading of configs: Detectron2's LazyConfigs (`.py`, or saved as `.yaml`) and its CfgNode YAML files."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig, get_cfg
from omegaconf import DictConfig, ListConfig, OmegaConf

from mrcnn_plugin import model_zoo
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import add_config

from . import lazy
from .cfgnode import CfgNodeRunConfig
from .overrides import apply_cfgnode_overrides, apply_lazy_overrides
from .renamed import MODULES, current_name
from .run_config import RunConfig


def find_config(name: str) -> str:
    """Path of the config `name`: a file, or the name of one of this package's configs.

    Raises:
        ConfigError: neither exists.
    """
    if not name:
        raise ConfigError("--config-file is missing: give a .py or .yaml file, or a name of the model zoo")
    if os.path.isfile(name):
        return name
    try:
        return model_zoo.get_config_file(name)
    except FileNotFoundError as error:
        raise ConfigError(f"config file {name!r} does not exist; {error}") from error


def load_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Loads the config `name` (see `find_config`), applies `overrides`, and adapts it to a run.

    Args:
        overrides: `key=value` for a LazyConfig; `KEY VALUE` pairs or `KEY=VALUE` for a CfgNode.

    Raises:
        ConfigError: no such file, not a config, an unknown key (the nearest valid one is named), or a value
            of the wrong type.
    """
    path = find_config(name)
    if path.endswith(".py") or _is_saved_lazy_config(path):
        raw = _load_lazy(path)
        return lazy.adapt(raw, path, apply_lazy_overrides(raw, overrides))
    raw = get_cfg()
    add_config(raw)
    try:
        raw.merge_from_file(path)
    except (KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    return CfgNodeRunConfig(raw, path, apply_cfgnode_overrides(raw, overrides))


def _is_saved_lazy_config(path: str) -> bool:
    """Whether a YAML file was written by LazyConfig.save, judged by its top-level keys."""
    try:
        with open(path) as file:
            node = yaml.compose(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {_first_line(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} is not a config: expected a mapping of keys at its top level")
    return any(key.value in lazy.SECTIONS for key, _ in node.value)


def _load_lazy(path: str) -> DictConfig:
    pickled = Path(path + ".pkl")
    try:
        raw = _Unpickler(pickled.read_bytes()).load() if pickled.exists() else LazyConfig.load(path)
    except (SyntaxError, ImportError, AttributeError, NameError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} could not be loaded: {_first_line(error)}") from error
    _rename_targets(raw)
    return raw


class _Unpickler(pickle.Unpickler):
    """Reads `config.yaml.pkl`, whose names may be those of a former release."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(MODULES.get(module, module), name)


def _rename_targets(node: DictConfig | ListConfig) -> None:
    keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        child = node[key]
        if key == "_target_" and isinstance(child, str):
            if current_name(child) != child:
                node[key] = current_name(child)
        elif OmegaConf.is_config(child):
            _rename_targets(child)


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
