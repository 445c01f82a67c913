"""Command-line overrides that refuse a key which nothing would read, naming the nearest valid one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.parallel import DistributedDataParallel

from mrcnn_plugin.errors import ConfigError


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Parameters of a callable by name; of a class's bases too where it has **kwargs."""
    chain = [target]
    if inspect.isclass(target):
        chain = [vars(cls)["__init__"] for cls in target.__mro__[:-1] if "__init__" in vars(cls)] or chain
    found: dict[str, inspect.Parameter] = {}
    for function in chain:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
        catch_all = [n for n, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
        found = {**parameters, **found}
        if not catch_all:
            return {name: p for name, p in found.items() if p.kind not in _VARIABLE and name != "self"}
    return {name: p for name, p in found.items() if name != "self"}


_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


# Keys that the engine and Detectron2's default_setup read although a config may leave them out.
_OPTIONAL = {
    "train": {
        *("amp", "checkpointer", "cudnn_benchmark", "ddp", "device", "eval_period"),
        *("float32_precision", "init_checkpoint", "log_period", "max_iter", "output_dir", "seed"),
    },
    "train.amp": {"enabled"},
    "train.ddp": {*_parameters(DistributedDataParallel), "fp16_compression"} - {"module", "device_ids"},
    "train.checkpointer": {*_parameters(hooks.PeriodicCheckpointer)} - {"checkpointer", "max_iter"},
}


def nearest(key: str, valid: Iterable[str]) -> str:
    """The valid key that is most like `key`, by its last part first; "" where none is like it."""
    valid = list(dict.fromkeys(valid))
    whole = difflib.get_close_matches(key, valid, n=1, cutoff=0.75)
    if whole:
        return whole[0]
    last = key.rpartition(".")[2]
    endings: dict[str, str] = {}
    for candidate in sorted(valid, key=lambda name: name.count(".")):
        endings.setdefault(candidate.rpartition(".")[2], candidate)
    ending = difflib.get_close_matches(last, endings, n=1, cutoff=0.75)
    if ending:
        return endings[ending[0]]
    return next(iter(difflib.get_close_matches(key, valid, n=1, cutoff=0.5)), "")


def apply_lazy_overrides(cfg: DictConfig, overrides: Sequence[str]) -> set[str]:
    """Applies Hydra-style `key=value` overrides to a LazyConfig in place; `+key=value` adds a new key.

    A key is valid where the config has it, or where it is a parameter of the node's `_target_`.

    Returns:
        The dotted keys.

    Raises:
        ConfigError: an unknown key, a value of another type, or a malformed override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    keys = set()
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
        if not override.is_add():
            _check_key(cfg, key)
            value = _check_value(cfg, key, value)
        try:
            _update(cfg, key, value)
        except (OmegaConfBaseException, KeyError, TypeError) as error:
            raise ConfigError(f"override {text!r}: {str(error).splitlines()[0]}") from error
        keys.add(key)
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


def _valid_children(node: Any, path: str) -> set[str] | None:
    """Keys that may be set below `node`; None where any may, as its target takes keyword arguments."""
    if isinstance(node, ListConfig):
        return {str(index) for index in range(len(node))}
    if not isinstance(node, DictConfig):
        return set()
    children = {str(key) for key in node}
    target = node.get("_target_")
    if isinstance(target, str):
        target = locate(target)
    if callable(target):
        parameters = _parameters(target)
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return None
        children |= set(parameters)
    return children | _OPTIONAL.get(path, set())


def accepts(node: DictConfig, argument: str) -> bool:
    """Whether the `_target_` of a node has a parameter of this name (`**kwargs` does not count)."""
    target = node.get("_target_")
    return argument in _parameters(locate(target) if isinstance(target, str) else target)


def _check_key(cfg: DictConfig, key: str) -> None:
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth])
        children = _valid_children(node, path)
        if children is not None and part not in children:
            if not isinstance(node, DictConfig | ListConfig):
                raise ConfigError(f"unknown key {key!r}: {path!r} is {node!r}, which has no keys below it")
            hint = _nearest_lazy(cfg, key, path, part, children)
            raise ConfigError(f"unknown key {key!r}{hint and f'; did you mean {hint!r}?'}")
        below = ".".join([*parts[:depth], part])
        node = OmegaConf.select(cfg, below, default=None, throw_on_missing=False)
        if node is None:
            rest = parts[depth + 1 :]
            optional = _OPTIONAL.get(below, set())
            if not rest or (children is None) or (len(rest) == 1 and rest[0] in optional):
                return
            hint = nearest(".".join([below, *rest]), [f"{below}.{name}" for name in optional])
            raise ConfigError(f"unknown key {key!r}: {below!r} is null{hint and f'; did you mean {hint!r}?'}")


def _nearest_lazy(cfg: DictConfig, key: str, path: str, part: str, children: set[str]) -> str:
    """A sibling that looks like the wrong part, else a key from anywhere in the config."""
    sibling = difflib.get_close_matches(part, children, n=1, cutoff=0.6)
    if sibling:
        rest = key[len(path) + bool(path) + len(part) :]
        repaired = ".".join(filter(None, [path, sibling[0]])) + rest
        try:
            _check_key(cfg, repaired)
        except ConfigError:
            return ".".join(filter(None, [path, sibling[0]]))
        return repaired
    return nearest(key, all_keys(cfg))


def all_keys(cfg: DictConfig, path: str = "") -> list[str]:
    """Every dotted key that may be set below `path`, absent parameters of targets included."""
    node = OmegaConf.select(cfg, path) if path else cfg
    keys = []
    for child in sorted(_valid_children(node, path) or map(str, node)):
        below = f"{path}.{child}" if path else child
        keys.append(below)
        value = OmegaConf.select(cfg, below, default=None, throw_on_missing=False)
        if isinstance(value, DictConfig | ListConfig):
            keys += all_keys(cfg, below)
    return [key for key in keys if not key.endswith("_target_")]


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
    valid = _cfgnode_keys(cfg)
    for key, value in pairs:
        if key not in valid:
            hint = nearest(key, valid)
            raise ConfigError(f"unknown key {key!r}{hint and f'; did you mean {hint!r}?'}")
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


def _cfgnode_keys(node: CfgNode, path: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        below = f"{path}.{name}" if path else name
        keys += _cfgnode_keys(value, below) if isinstance(value, CfgNode) else [below]
    return keys
