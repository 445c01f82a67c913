"""What a run folder keeps of its config, and how a config differs from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import yaml

from mrcnn_plugin.atomic_files import write_atomically

from .renamed import current_name
from .run_config import RunConfig


def save_config(config: RunConfig) -> None:
    """Makes the `config.yaml` that Detectron2's default_setup wrote in the run folder loadable in any case.

    LazyConfig.save writes functions by name; those defined in a config file itself have none that can be
    imported again. Such a config is pickled to `config.yaml.pkl` beside it, which `load_config` prefers.
    """
    path = Path(config.output_dir, "config.yaml")
    pickled = path.with_name(f"{path.name}.pkl")
    if config.reloads(str(path)):
        pickled.unlink(missing_ok=True)
    else:
        write_atomically(pickled, cloudpickle.dumps(config.raw))


def changes(config: RunConfig) -> list[str]:
    """What differs between a config and the one that its run folder holds: lines `key: before -> now`.

    Empty where the folder holds none.
    """
    before = Path(config.output_dir, "config.yaml")
    if not before.is_file():
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        config.save(str(path))
        old, new = (dict(_leaves(yaml.compose(file.read_text()))) for file in (before, path))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in keys]


def saved_keys(folder: str) -> dict[str, str]:
    """Dotted keys of the config that a run folder holds, with their values as written; {} for none."""
    path = Path(folder, "config.yaml")
    return dict(_leaves(yaml.compose(path.read_text()))) if path.is_file() else {}


def _leaves(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a YAML document, as they are written: nothing in it is constructed."""
    if isinstance(node, yaml.ScalarNode):
        yield key, current_name(node.value)
        return
    children = node.value if node is not None else []
    if isinstance(node, yaml.SequenceNode):
        children = [(yaml.ScalarNode("", str(index)), child) for index, child in enumerate(children)]
    for name, child in children:
        yield from _leaves(child, f"{key}.{name.value}" if key else name.value)
