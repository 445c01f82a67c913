"""Loading of configs: Detectron2's LazyConfigs (`.py`, or saved as `.yaml`) and its CfgNode YAML files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cloudpickle
import torch
import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from mrcnn_plugin import model_zoo
from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import add_config

from .overrides import apply_cfgnode_overrides, apply_lazy_overrides

Config = DictConfig | CfgNode

# What a LazyConfig needs at its top level to be trained; one of them in a YAML file tells it from a CfgNode.
_LAZY_SECTIONS = ("model", "dataloader", "train", "optimizer", "lr_multiplier")


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


def load_config(name: str, overrides: Sequence[str] = ()) -> tuple[Config, set[str]]:
    """Loads the config `name` (see `find_config`) and applies `overrides`.

    Args:
        overrides: `key=value` for a LazyConfig; `KEY VALUE` pairs or `KEY=VALUE` for a CfgNode.

    Returns:
        The config, and the dotted keys that were overridden.

    Raises:
        ConfigError: no such file, not a config, an unknown key (the nearest valid one is named), or a value
            of the wrong type.
    """
    path = find_config(name)
    if path.endswith(".py") or _is_saved_lazy_config(path):
        cfg = _load_lazy(path)
        return cfg, apply_lazy_overrides(cfg, overrides)
    cfg = get_cfg()
    add_config(cfg)
    try:
        cfg.merge_from_file(path)
    except (KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    return cfg, apply_cfgnode_overrides(cfg, overrides)


def _is_saved_lazy_config(path: str) -> bool:
    """Whether a YAML file was written by LazyConfig.save, judged by its top-level keys."""
    try:
        with open(path) as file:
            node = yaml.compose(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {_first_line(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} is not a config: expected a mapping of keys at its top level")
    return any(key.value in _LAZY_SECTIONS for key, _ in node.value)


def _load_lazy(path: str) -> DictConfig:
    pickled = Path(path + ".pkl")
    try:
        if pickled.exists():
            cfg = cloudpickle.loads(pickled.read_bytes())
        else:
            cfg = LazyConfig.load(path)
    except (SyntaxError, ImportError, AttributeError, NameError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} could not be loaded: {_first_line(error)}") from error
    missing = [section for section in _LAZY_SECTIONS if section not in cfg]
    if missing:
        raise ConfigError(
            f"{path} is not a LazyConfig of Detectron2's shape: it does not define {', '.join(missing)}"
        )
    return cfg


def save_config(cfg: Config, output_dir: str) -> None:
    """Makes the `config.yaml` that Detectron2's default_setup wrote in `output_dir` loadable in any case.

    LazyConfig.save writes functions by name; those defined in a config file itself have none that can be
    imported again. Such a config is pickled to `config.yaml.pkl` beside it, which `load_config` prefers.
    """
    pickled = Path(output_dir, "config.yaml.pkl")
    if isinstance(cfg, CfgNode) or _reloads(Path(output_dir, "config.yaml")):
        pickled.unlink(missing_ok=True)
        return
    write_atomically(pickled, cloudpickle.dumps(cfg))


def changes(cfg: Config, output_dir: str) -> list[str]:
    """What differs between `cfg` and the config that a run folder holds, a line each: `key: before -> now`.

    Empty where the folder holds none.
    """
    before = Path(output_dir, "config.yaml")
    if not before.is_file():
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        if isinstance(cfg, CfgNode):
            path.write_text(cfg.dump())
        else:
            LazyConfig.save(cfg, str(path))
        old, new = (dict(_leaves(yaml.compose(file.read_text()))) for file in (before, path))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in keys]


def _leaves(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a YAML document, as they are written: nothing in it is constructed."""
    if isinstance(node, yaml.ScalarNode):
        yield key, node.value
        return
    children = node.value if node is not None else []
    if isinstance(node, yaml.SequenceNode):
        children = [(yaml.ScalarNode("", str(index)), child) for index, child in enumerate(children)]
    for name, child in children:
        yield from _leaves(child, f"{key}.{name.value}" if key else name.value)


def _reloads(path: Path) -> bool:
    try:
        targets = list(_targets(OmegaConf.to_container(LazyConfig.load(str(path)), resolve=False)))
        return all(callable(target) or locate(target) is not None for target in targets)
    except Exception:
        return False


def _targets(node: object):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _targets(child)


def choose_device(cfg: Config) -> str | None:
    """Sets the config's device where it is not given, or is CUDA and there is none.

    Returns:
        A line that says so, or None where nothing was changed.
    """
    lazy = isinstance(cfg, DictConfig)
    given = cfg.train.get("device") if lazy else cfg.MODEL.DEVICE
    if given not in (None, "", "auto") and (not str(given).startswith("cuda") or torch.cuda.is_available()):
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if lazy:
        OmegaConf.update(cfg, "train.device", device, force_add=True)
    else:
        cfg.MODEL.DEVICE = device
    why = f"no CUDA device for {given!r}" if str(given).startswith("cuda") else "none was given"
    return f"Running on {device!r} ({why})"


def as_list(names: str | Sequence[str] | ListConfig | None) -> list[str]:
    """Dataset names, given as one string or several, as a list."""
    return [names] if isinstance(names, str) else list(names or ())


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
