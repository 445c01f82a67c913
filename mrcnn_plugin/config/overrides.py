"""Command-line overrides that refuse a key which nothing would read, naming the nearest valid one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrcnn_plugin.errors import ConfigError

from .valid_keys import cfgnode_keys, check_config, check_key, nearest, unknown_key


def apply_lazy_overrides(cfg: DictConfig, overrides: Sequence[str]) -> set[str]:
    """Applies Hydra-style `key=value` overrides to a LazyConfig in place; `+key=value` adds a new key.

    A key is valid where the config has it, or where it is a parameter of the node's `_target_`. The keys that
    the config file itself sets are checked as well.

    Returns:
        The dotted keys.

    Raises:
        ConfigError: an unknown key, a value of another type, or a malformed override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    keys, added = set(), set()
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"override {text!r} must have the form key=value")
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            key, value = override.key_or_group, override.value()
        except HydraException as error:
            raise ConfigError(
                f"override {text!r} cannot be read: {str(error).splitlines()[0]} (quote special characters: "
                "key='\"value\"')"
            ) from error
        if override.is_delete():
            raise ConfigError(f"override {text!r}: deletion is not supported; set the key to null")
        if override.is_add():
            added.add(key)
        else:
            check_key(cfg, key)
            value = _check_value(cfg, key, value)
        try:
            _update(cfg, key, value)
        except (OmegaConfBaseException, KeyError, TypeError) as error:
            raise ConfigError(f"override {text!r}: {str(error).splitlines()[0]}") from error
        keys.add(key)
    check_config(cfg, added)
    return keys


def _update(cfg: DictConfig, key: str, value: Any) -> None:
    """Detectron2's own update; values go in as they were parsed, since its parser takes only strings."""
    parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
    if parent is None:
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    elif isinstance(parent, ListConfig):
        parent[int(key.rpartition(".")[2])] = value
    else:
        OmegaConf.update(parent, key.rpartition(".")[2], value, merge=True, force_add=True)


def _check_value(cfg: DictConfig, key: str, value: Any) -> Any:
    """`value`, made of the type that the config has at `key` where that is harmless; else a ConfigError."""
    old = OmegaConf.select(cfg, key, default=None, throw_on_missing=False)
    parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
    is_argument = isinstance(parent, DictConfig) and "_target_" in parent

    def wrong(expected: str) -> ConfigError:
        return ConfigError(f"{key} must be {expected}, got {value!r} (it is {old!r} in the config)")

    if value is None or old is None:
        return value
    if isinstance(old, DictConfig):
        if "_target_" in old and not isinstance(value, dict):
            raise ConfigError(
                f"{key} is a component with fields of its own, got {value!r}; set a field: {key}.FIELD=VALUE"
            )
        if not isinstance(value, dict) and not is_argument:
            raise ConfigError(f"{key} is a group of keys, got {value!r}; set one: {key}.FIELD=VALUE")
    elif isinstance(old, bool):
        if not isinstance(value, bool):
            raise wrong("true or false")
    elif isinstance(old, int | float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not (is_argument and isinstance(value, list | tuple | dict)):
            raise wrong("a number")
        if isinstance(old, int) and isinstance(value, float):
            if value.is_integer():
                return int(value)
            if not is_argument:
                raise wrong("a whole number")
    elif isinstance(old, str):
        if isinstance(value, bool) or (isinstance(value, dict) and not is_argument):
            raise wrong("a string")
        if isinstance(value, int | float):
            return str(value)
    return value


def apply_cfgnode_overrides(cfg: CfgNode, overrides: Sequence[str]) -> set[str]:
    """Applies `KEY VALUE` pairs and `KEY=VALUE` to a CfgNode in place.

    Returns:
        The dotted keys.

    Raises:
        ConfigError: an unknown key, a value of another type, or a key without a value.
    """
    pairs = _pairs(overrides)
    valid = cfgnode_keys(cfg)
    for key, value in pairs:
        if key not in valid:
            raise unknown_key(key, nearest(key, valid))
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError, KeyError) as error:
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    return {key for key, _ in pairs}


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    pairs, words = [], list(overrides)
    while words:
        word = words.pop(0)
        if re.fullmatch(r"[A-Za-z_][\w.]*=.*", word, re.DOTALL):
            key, _, value = word.partition("=")
        elif words:
            key, value = word, words.pop(0)
        else:
            raise ConfigError(f"override {word!r} has no value: give KEY VALUE or KEY=VALUE")
        pairs.append((key, value))
    return pairs
