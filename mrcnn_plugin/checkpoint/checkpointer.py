"""Detectron2's checkpointer, reading files without running code from them and writing each in one step."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2 import checkpoint as d2_checkpoint
from detectron2.utils.file_io import PathManager
from torch import nn

from mrcnn_plugin.atomic_files import replacing, write_atomically
from mrcnn_plugin.errors import ConfigError

from .reading import read_checkpoint
from .sources import SCHEMES
from .timm_weights import for_timm_backbone


class DetectionCheckpointer(d2_checkpoint.DetectionCheckpointer):
    """Detectron2's DetectionCheckpointer with safe reading and atomic writing.

    Takes what Detectron2's takes (its own checkpoints, `detectron2://` zoo files, ImageNet backbones from
    Caffe2, torchvision and pycls), .safetensors files, `package://` and `timm://` (`sources`), and timm's
    classifiers for a model on `TimmBackbone`. See `read_checkpoint` for what is refused. A file
    that it writes is either whole or absent.

    Args:
        model: the model to load into and to save.
        save_dir: folder of the checkpoints.
        whole: refuse to load weights that leave a part of the model as it was initialised, as those of a
            backbone or of another number of classes do. Training starts from such; nothing else should.
        allow_pickle: also read files that can only be read by running code that they name.
        checkpointables, save_to_disk: as Detectron2's.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        whole: bool = False,
        allow_pickle: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.whole = whole
        self.allow_pickle = allow_pickle

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads weights and, by default, every checkpointable; returns what else the file holds.

        Raises:
            ConfigError: the file cannot be read or fetched, or is not `whole`.
        """
        try:
            return super().load(path, *args, **kwargs)
        except ConfigError:
            raise
        except (OSError, ValueError, ImportError, EOFError, pickle.UnpicklingError) as error:
            raise ConfigError(f"weights {path!r} cannot be loaded: {str(error).splitlines()[0]}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_checkpoint(filename, allow_pickle=self.allow_pickle)
        if not isinstance(data, dict):
            raise ValueError(f"{filename} must hold a dict of weights, got {type(data).__name__}")
        loaded = _as_checkpoint(data, filename)
        check_native_names(loaded["model"], filename)
        loaded["model"] = for_timm_backbone(self.model, loaded["model"], filename)
        # Detectron2's main branch takes "file?matching_heuristics=True".
        url = getattr(self, "_parsed_url_during_load", None)
        if url is not None and parse_qs(url.query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        # A parameter of another shape is among the missing ones too.
        shapes = [row[0] for row in incompatible.incorrect_shapes]
        missing = list(dict.fromkeys([*incompatible.missing_keys, *shapes]))
        if self.whole and missing:
            raise ConfigError(
                f"the weights do not fit the model: {len(missing)} of its parameters are missing or of "
                f"another shape, such as {missing[0]!r}; give those of a training with this config"
            )
        return incompatible

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `name`.pth with the model, every checkpointable and `kwargs`, and marks it as the last."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path) as part:
            torch.save(data, part)
        self.tag_last_checkpoint(os.path.basename(path))

    def save_weights(self, name: str, model: nn.Module, **kwargs: Any) -> None:
        """Writes `name`.pth with a model's weights and `kwargs` alone: nothing to resume a training from."""
        if not self.save_dir or not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving weights to {path}")
        with replacing(path) as part:
            torch.save({"model": model.state_dict(), **kwargs}, part)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Makes this file the one that `--resume` continues from."""
        write_atomically(Path(self.save_dir, "last_checkpoint"), last_filename_basename.encode())


def check_weights(path: str, key: str) -> None:
    """Raises ConfigError where `path` cannot be had; `key` is what set it.

    Files, packages and timm's models are looked for (timm's downloaded); other URLs are left for later.
    """
    if path.startswith(SCHEMES):
        try:
            PathManager.get_local_path(path)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
    if not path or "://" in path:
        return
    if not os.path.isfile(PathManager.get_local_path(path)):
        raise ConfigError(f"{key}: no weights at {path!r}; give a file, a URL, or '' to start from scratch")


def _as_checkpoint(data: dict[str, Any], filename: str) -> dict[str, Any]:
    """The many layouts of weight files -> {"model": state dict, ...}, as Detectron2's checkpointer has it."""
    if "model_state" in data and filename.endswith(".pyth"):
        state = {k: v for k, v in data["model_state"].items() if not k.endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    if "model" in data and isinstance(data["model"], dict):
        return data
    if filename.endswith(".pkl"):
        # Caffe2 and Detectron: detection models have "blobs", ImageNet models are the blobs.
        blobs = data.get("blobs", data)
        state = {k: v for k, v in blobs.items() if not k.endswith("_momentum")}
        return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}
    return {"model": data}


#: A name that only the state dicts of that library's detectors have.
_FOREIGN = {"torchvision": "backbone.body.conv1.weight", "mmdetection": "roi_head.bbox_head.fc_cls.weight"}


def check_native_names(state_dict: dict[str, Any], filename: str) -> None:
    """Raises ValueError where the weights are those of another library's detector.

    Loaded as they are, none of them would match, and the model would silently keep its random weights.
    """
    names = state_dict.get("state_dict", state_dict)
    for library, name in _FOREIGN.items():
        if name in names:
            raise ValueError(
                f"{filename} holds {library}'s parameter names; convert it first: "
                f"python -m mrcnn_plugin.checkpoint.convert --from {library} {filename} OUT.safetensors"
            )
