"""Which keys of a config something reads, told from the signatures of its components."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.nn.parallel import DistributedDataParallel

from mrcnn_plugin.errors import ConfigError, first_line

from .optimizer import build_optimizer
from .training_keys import GROUPS, KEYS

_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


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


# Keys below `train` that the training program and Detectron2's default_setup read; none is required.
_TRAIN_KEYS = {
    "train": {
        *("amp", "checkpointer", "cudnn_benchmark", "ddp", "device", "eval_period"),
        *("float32_precision", "init_checkpoint", "log_period", "max_iter", "output_dir", "seed"),
        *("epochs", "fused_convolutions", "memory_format", "optimized_evaluation", "recipe", *KEYS),
    },
    **{f"train.{group}": set(names) for group, names in GROUPS.items()},
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


def unknown_key(key: str, hint: str, why: str = "") -> ConfigError:
    """The error of a key that nothing reads; `hint` is the key that was probably meant, "" for none."""
    return ConfigError(f"unknown key {key!r}{why}{hint and f'; did you mean {hint!r}?'}")


def _arguments(node: DictConfig) -> set[str] | None:
    """Arguments that the `_target_` of a node takes; None where it takes any."""
    target = _target(node)
    if not callable(target):
        return set()
    parameters = _parameters(target)
    names = {name for name, p in parameters.items() if p.kind not in _VARIABLE}
    if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return names
    if target is build_optimizer:
        optimizer = node.get("optimizer")
        return names | set(_parameters(locate(optimizer) if isinstance(optimizer, str) else optimizer))
    return None


def _target(node: DictConfig) -> Any:
    target = node.get("_target_")
    if not isinstance(target, str):
        return target
    try:
        found = locate(target)
    except Exception as error:
        # Importing runs code of a package that is not ours.
        raise _not_found(node, target, first_line(error)) from error
    if found is None:
        raise _not_found(node, target, "no such name")
    return found


def _not_found(node: DictConfig, target: str, why: str) -> ConfigError:
    package = target.partition(".")[0]
    return ConfigError(
        f"{node._get_full_key(None)}._target_ {target!r} cannot be imported ({why}); if it belongs to a "
        f"package of your own, put the folder that holds {package!r} on the path: PYTHONPATH=FOLDER"
    )


def _valid_children(node: Any, path: str) -> set[str] | None:
    """Keys that may be set below `node`; None where any may, as its target takes keyword arguments."""
    if isinstance(node, ListConfig):
        return {str(index) for index in range(len(node))}
    if not isinstance(node, DictConfig):
        return set()
    arguments = _arguments(node)
    if arguments is None:
        return None
    return {str(key) for key in node} | arguments | _TRAIN_KEYS.get(path, set())


def accepts(node: DictConfig, argument: str) -> bool:
    """Whether the `_target_` of a node has a parameter of this name (`**kwargs` does not count)."""
    return argument in _parameters(_target(node))


def check_key(cfg: DictConfig, key: str) -> None:
    """Checks that something reads the dotted `key`.

    Raises:
        ConfigError: nothing does; the nearest valid key is named.
    """
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth])
        children = _valid_children(node, path)
        if children is not None and part not in children:
            if not isinstance(node, DictConfig | ListConfig):
                raise ConfigError(f"unknown key {key!r}: {path!r} is {node!r}, which has no keys below it")
            raise unknown_key(key, _nearest_lazy(cfg, key, path, part, children))
        below = ".".join([*parts[:depth], part])
        node = OmegaConf.select(cfg, below, default=None, throw_on_missing=False)
        if node is None:
            rest = parts[depth + 1 :]
            optional = _TRAIN_KEYS.get(below, set())
            if not rest or (children is None) or (len(rest) == 1 and rest[0] in optional):
                return
            hint = nearest(".".join([below, *rest]), [f"{below}.{name}" for name in optional])
            raise unknown_key(key, hint, f": {below!r} is null")


def _nearest_lazy(cfg: DictConfig, key: str, path: str, part: str, children: set[str]) -> str:
    """A sibling that looks like the wrong part, else a key from anywhere in the config."""
    sibling = difflib.get_close_matches(part, children, n=1, cutoff=0.6)
    if sibling:
        rest = key[len(path) + bool(path) + len(part) :]
        repaired = ".".join(filter(None, [path, sibling[0]])) + rest
        try:
            check_key(cfg, repaired)
        except ConfigError:
            return ".".join(filter(None, [path, sibling[0]]))
        return repaired
    return nearest(key, lazy_keys(cfg))


def check_config(cfg: DictConfig, added: Iterable[str] = ()) -> None:
    """Checks the keys that a LazyConfig itself sets: the arguments of every component, and those of `train`.

    Args:
        added: dotted keys that the command line added with `+key=value`; they are not checked.

    Raises:
        ConfigError: a key that nothing reads.
    """
    added = set(added)
    for path, node in _nodes(cfg):
        target = "_target_" in node
        valid = _arguments(node) if target else _TRAIN_KEYS.get(path)
        if valid is None:
            continue
        for name in map(str, node):
            key = f"{path}.{name}"
            if name not in valid and name not in ("_target_", "_convert_") and key not in added:
                close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
                hint = f"{path}.{close[0]}" if close else ""
                of = _target(node)
                why = f": {getattr(of, '__qualname__', of)} has no such argument" if target else ""
                raise unknown_key(key, hint, why)


def _nodes(cfg: DictConfig | ListConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every mapping below `cfg` with its dotted path; interpolations are not followed."""
    if isinstance(cfg, DictConfig):
        yield path, cfg
    keys: Iterable[Any] = cfg if isinstance(cfg, DictConfig) else range(len(cfg))
    for key in keys:
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        if OmegaConf.is_config(cfg[key]) and cfg[key] is not None:
            yield from _nodes(cfg[key], f"{path}.{key}" if path else str(key))


def lazy_keys(cfg: DictConfig, path: str = "") -> list[str]:
    """Every dotted key that may be set below `path`, absent parameters of targets included."""
    node = OmegaConf.select(cfg, path) if path else cfg
    keys = []
    for child in sorted(_valid_children(node, path) or map(str, node)):
        below = f"{path}.{child}" if path else child
        keys.append(below)
        value = OmegaConf.select(cfg, below, default=None, throw_on_missing=False)
        if isinstance(value, DictConfig | ListConfig):
            keys += lazy_keys(cfg, below)
    return [key for key in keys if not key.endswith("_target_")]


def cfgnode_keys(node: CfgNode, path: str = "") -> list[str]:
    """Every dotted key of a CfgNode that holds a value."""
    keys: list[str] = []
    for name, value in node.items():
        below = f"{path}.{name}" if path else name
        keys += cfgnode_keys(value, below) if isinstance(value, CfgNode) else [below]
    return keys
