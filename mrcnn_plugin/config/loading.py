"""Loading of configs: Detectron2's LazyConfigs (`.py`, or saved as `.yaml`) and its CfgNode YAML files."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrcnn_plugin import model_zoo
from mrcnn_plugin.errors import ConfigError, first_line
from mrcnn_plugin.modeling import add_config

from . import lazy
from .cfgnode import CfgNodeRunConfig
from .overrides import apply_cfgnode_overrides, apply_lazy_overrides
from .renamed import MODULES, current_name
from .run_config import RunConfig
from .untrusted import REMEDY, load_untrusted
from .yaml_files import check_bases, compose


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


def load_config(name: str, overrides: Sequence[str] = (), *, trusted: bool = True) -> RunConfig:
    """Loads the config `name` (see `find_config`), applies `overrides`, and adapts it to a run.

    Args:
        overrides: `key=value` for a LazyConfig; `KEY VALUE` pairs or `KEY=VALUE` for a CfgNode.
        trusted: whether a YAML file, and the pickle that may stand beside it, may name any code; else see
            `mrcnn_plugin.config.untrusted`. A Python file is code, and always runs.

    Raises:
        ConfigError: no such file, not a config, an unknown key (the nearest valid one is named), a value
            of the wrong type, or what an untrusted file may not hold.
    """
    path = find_config(name)
    try:
        if path.endswith(".py") or _is_saved_lazy_config(path):
            raw = _load_lazy(path, trusted)
            return lazy.adapt(raw, path, apply_lazy_overrides(raw, overrides))
        return _load_cfgnode(path, overrides)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {first_line(error)}") from error


def _load_cfgnode(path: str, overrides: Sequence[str]) -> CfgNodeRunConfig:
    check_bases(path)
    raw = get_cfg()
    add_config(raw)
    try:
        # Detectron2 would run what YAML tags name; none of its configs has one.
        raw.merge_from_other_cfg(CfgNode(CfgNode.load_yaml_with_base(path, allow_unsafe=False)))
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from error
    return CfgNodeRunConfig(raw, path, apply_cfgnode_overrides(raw, overrides))


def _is_saved_lazy_config(path: str) -> bool:
    """Whether a YAML file was written by LazyConfig.save, judged by its top-level keys."""
    return any(key.value in lazy.SECTIONS for key, _ in compose(path).value)


def _load_lazy(path: str, trusted: bool) -> DictConfig:
    pickled = Path(path + ".pkl")
    if pickled.exists() and not trusted and not path.endswith(".py"):
        raise ConfigError(f"{pickled} is a pickle, which can run any code: it was not opened; {REMEDY}")
    try:
        if trusted or path.endswith(".py"):
            raw = _Unpickler(pickled.read_bytes()).load() if pickled.exists() else LazyConfig.load(path)
        else:
            raw = load_untrusted(Path(path).read_text(), path)
    except ConfigError:
        raise
    except (*_LOADING_ERRORS, yaml.YAMLError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} could not be loaded: {first_line(error)}") from error
    if not isinstance(raw, DictConfig):
        raise ConfigError(f"{path} is not a config: expected a mapping of keys at its top level")
    _rename_targets(raw)
    return raw


#: What running or reading a config file raises where the file is at fault.
_LOADING_ERRORS = (
    SyntaxError,
    ImportError,
    AttributeError,
    NameError,
    LookupError,
    TypeError,
    ValueError,
    AssertionError,
    OSError,
    EOFError,
    RecursionError,
    OverflowError,
    MemoryError,
)


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
