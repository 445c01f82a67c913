"""Checks of YAML files before anything is made of them: their size when unfolded, and their `_BASE_`."""

from __future__ import annotations

import os

import yaml
from detectron2.utils.file_io import PathManager

from mrcnn_plugin.data import yaml_nodes
from mrcnn_plugin.errors import ConfigError, first_line

_BASE = "_BASE_"


def compose(path: str) -> yaml.MappingNode:
    """The nodes of a YAML file, a mapping at its top; nothing in it is constructed.

    Raises:
        ConfigError: the file cannot be read, is not such a mapping, or has too many values.
    """
    try:
        with PathManager.open(path) as file:
            node = yaml_nodes.compose(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or first_line(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a YAML file: {first_line(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} is not a config: expected a mapping of keys at its top level")
    return node


def check_bases(path: str, above: tuple[str, ...] = ()) -> None:
    """Follows `_BASE_` of a CfgNode file as fvcore does.

    Raises:
        ConfigError: a file that is missing, unreadable or its own base.
    """
    if path in above:
        raise ConfigError(f"{above[0]}: its {_BASE} leads back to itself: {' -> '.join([*above, path])}")
    for base in _bases(path):
        if base.startswith("~"):
            base = os.path.expanduser(base)
        if not base.startswith(("/", "https://", "http://")):
            base = os.path.normpath(os.path.join(os.path.dirname(path), base))
        if "://" not in base and not os.path.isfile(base):
            raise ConfigError(f"{path}: its {_BASE} {base!r} does not exist")
        check_bases(base, (*above, path))


def _bases(path: str) -> list[str]:
    for key, value in compose(path).value:
        if key.value == _BASE:
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not all(isinstance(node, yaml.ScalarNode) and node.value for node in nodes):
                raise ConfigError(f"{path}: {_BASE} must be a path, or a list of paths")
            return [node.value for node in nodes]
    return []
