"""Configs from other people: read as data, and only with components that are known to run no code of theirs.

A LazyConfig's `_target_` is a function that is called with arguments of the config's choice, and PyYAML's
tags can name one too: whoever writes such a file decides what runs. A run folder that was sent, or
downloaded, is therefore read by `load_untrusted`, which admits

- classes of the packages in `_PACKAGES`, which build layers, transforms and the like from numbers,
- the functions and classes in `_SINGLE`,

and refuses every other name before anything of that name is imported.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mrcnn_plugin.errors import ConfigError

from .renamed import current_name

#: How a person says that a folder's code may run.
REMEDY = "if you trust whoever made it as you would trust a program, add --trust-run"

_PACKAGES = (
    "albumentations.augmentations",
    "albumentations.core.composition",
    "detectron2.data.dataset_mapper",
    "detectron2.data.transforms",
    "detectron2.evaluation",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "detectron2.structures",
    "fvcore.common.param_scheduler",
    "fvcore.transforms",
    "mrcnn_plugin.evaluation",
    "mrcnn_plugin.modeling",
    "mrcnn_plugin.projects",
    "torch.nn.modules",
    "torch.optim",
)
#: Packages that offer the classes and functions of others by shorter names; these may be imported as well.
_REEXPORTS = (
    "albumentations",
    "detectron2.data",
    "detectron2.utils.registry",
    "mrcnn_plugin.config",
    "mrcnn_plugin.data",
    "torch.nn",
)
_SINGLE = {
    "detectron2.data.build.build_detection_test_loader",
    "detectron2.data.build.build_detection_train_loader",
    "detectron2.data.build.get_detection_dataset_dicts",
    "detectron2.data.detection_utils.create_keypoint_hflip_indices",
    "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
    "detectron2.modeling.backbone.resnet.ResNet.make_stage",
    "detectron2.solver.build.get_default_optimizer_params",
    "mrcnn_plugin.config.optimizer.build_optimizer",
    "mrcnn_plugin.data.albumentations_piece.Albumentations",
    "mrcnn_plugin.data.copy_paste.CopyPasteMapper",
    "mrcnn_plugin.data.sampling.repeat_factor_sampler",
    "mrcnn_plugin.modeling.backbone.resnet_stages",
}
#: Dotted names that stand for themselves: nothing has to be imported for them.
_BUILTINS = {"builtins.dict": dict, "builtins.list": list, "builtins.tuple": tuple}


def permitted(name: str) -> Any:
    """The class or function that a dotted name stands for, or None where it is not admitted.

    Nothing is imported beyond the packages listed above.
    """
    if name in _BUILTINS:
        return _BUILTINS[name]
    found = _find(current_name(name))
    origin = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if origin in _SINGLE:
        return found
    return found if inspect.isclass(found) and _below(found.__module__, _PACKAGES) else None


def _below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _find(name: str) -> Any:
    """What a dotted name stands for, looking only at public names of modules that may be imported."""
    parts = name.split(".")
    if not all(part.isidentifier() and not part.startswith("__") for part in parts):
        return None
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if not _below(module, (*_PACKAGES, *_REEXPORTS)):
            continue
        if module.startswith("albumentations"):
            # Its import would ask a server for a newer version.
            os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        try:
            found: Any = importlib.import_module(module)
        except ImportError:
            continue
        for part in parts[length:]:
            found = inspect.getattr_static(found, part, None)
            found = getattr(found, "__func__", found)
        return found
    return None


class _Loader(yaml.SafeLoader):
    """YAML of plain values, tuples, and names that are `permitted`."""


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node))


def _name(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    found = permitted(suffix)
    if found is None:
        raise yaml.constructor.ConstructorError(None, None, f"the name {suffix!r}", node.start_mark)
    return found


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _name)


def load_untrusted(text: str, path: str) -> DictConfig:
    """The config that `LazyConfig.save` wrote as `text`, if everything in it is `permitted`.

    Args:
        path: of the file, for messages.

    Raises:
        ConfigError: it names code that is not.
        yaml.YAMLError: it is not YAML.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.constructor.ConstructorError as error:
        # Two forms: that of _name, and "could not determine a constructor for the tag '...'".
        tag = re.search(r"tag '(?:tag:yaml\.org,2002:)?(.*)'", error.problem)
        raise _refusal(path, f"the YAML tag !!{tag[1]}" if tag else error.problem) from error
    for key, value in _leaves(values):
        if not _harmless(key, value):
            raise _refusal(path, f"{key} = {value}")
    return OmegaConf.create(values, flags={"allow_objects": True})


def _harmless(key: str, value: object) -> bool:
    """Whether a value of a config can name no code that is not `permitted`, and no file to load."""
    name = key.rpartition(".")[2]
    if name == "_target_" and not isinstance(value, str):
        # An object came from a YAML tag, which _name has let through; anything else is no target.
        return callable(value)
    if name == "_target_" or (name == "optimizer" and isinstance(value, str)):
        found = permitted(str(value))
        # An evaluator writes files where it is told to; it is not built for prediction, unless as a part.
        part = _below(getattr(found, "__module__", ""), _EVALUATION) and not key.startswith(_EVALUATOR)
        return found is not None and not part
    if name.startswith("pretrained") or name == "checkpoint_path":
        # Arguments with which timm itself reads weights.
        return not value
    # OmegaConf's resolvers, such as oc.create, could build a _target_ out of text.
    return not isinstance(value, str) or "${" not in _REFERENCE.sub("", value)


_EVALUATION = ("detectron2.evaluation", "mrcnn_plugin.evaluation")
_EVALUATOR = "dataloader.evaluator"
_REFERENCE = re.compile(r"\$\{[\w.\[\]]+\}")


def _refusal(path: str, what: str) -> ConfigError:
    return ConfigError(f"{path} asks for code that is not known to be harmless: {what}; {REMEDY}")


def _leaves(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value in nested dicts, lists and tuples with its dotted key; a target that is a dict, too."""
    if isinstance(node, dict):
        children: Any = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    else:
        yield path, node
        return
    if path.endswith("_target_"):
        yield path, node
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))
