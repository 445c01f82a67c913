"""Detectron2's checkpointer, reading files without running code from them and writing each in one step."""

from __future__ import annotations

import logging
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
from mrcnn_plugin.errors import ConfigError, first_line

from .reading import check_tensors, is_intact, read_checkpoint
from .sources import SCHEMES
from .timm_weights import for_timm_backbone

logger = logging.getLogger(__name__)

#: What reading a file and copying its contents into a model raise where the file is at fault.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ImportError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    pickle.UnpicklingError,
)


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
            ConfigError: the file cannot be read or fetched, does not fit, holds NaN, or is not `whole`.
        """
        try:
            return super().load(path, *args, **kwargs)
        except ConfigError:
            raise
        except _LOADING_ERRORS as error:
            raise ConfigError(f"weights {path!r} cannot be loaded: {first_line(error)}") from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; where the last checkpoint is damaged or gone, the one before it is taken.

        Raises:
            ConfigError: as `load`; or the folder has no checkpoint that can be read.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        candidates = self.resumable_checkpoints()
        for number, candidate in enumerate(candidates):
            if not is_intact(candidate):
                if number + 1 < len(candidates):
                    logger.warning(f"{candidate} is damaged or missing; looking at the checkpoint before it")
                continue
            return self.load(candidate)
        raise ConfigError(
            f"{self.save_dir} has no checkpoint that can be read (looked at {len(candidates)}); "
            "start anew without --resume"
        )

    def get_checkpoint_file(self) -> str:
        """The path that the file last_checkpoint names; "" where there is none, or it names nothing."""
        try:
            path = super().get_checkpoint_file()
        except ValueError:
            # Not text: what a disk left of it.
            return ""
        return path if os.path.basename(path) else ""

    def resumable_checkpoints(self) -> list[str]:
        """Paths to resume from in the order to try: the last, then those before it, the newest first."""
        last = self.get_checkpoint_file()
        numbered = sorted(Path(self.save_dir).glob("model_[0-9]*.pth"), reverse=True)
        # model_final is the newest of all; of numbered ones, none newer than the last is taken.
        newest = Path(last).name or "model_final.pth"
        before = [str(path) for path in numbered if path.name < newest]
        return [*filter(None, [last]), *before]

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_checkpoint(filename, allow_pickle=self.allow_pickle)
        if not isinstance(data, dict):
            raise ValueError(f"{filename} must hold a dict of weights, got {type(data).__name__}")
        loaded = _as_checkpoint(data, filename)
        check_tensors(loaded["model"], filename)
        check_native_names(loaded["model"], filename)
        loaded["model"] = for_timm_backbone(self.model, loaded["model"], filename)
        # Detectron2's main branch takes "file?matching_heuristics=True".
        url = getattr(self, "_parsed_url_during_load", None)
        if url is not None and parse_qs(url.query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        self._check_finite()
        # A parameter of another shape is among the missing ones too.
        shapes = [row[0] for row in incompatible.incorrect_shapes]
        missing = list(dict.fromkeys([*incompatible.missing_keys, *shapes]))
        if self.whole and missing:
            raise ConfigError(
                f"the weights do not fit the model: {len(missing)} of its parameters are missing or of "
                f"another shape, such as {missing[0]!r}; give those of a training with this config"
            )
        return incompatible

    def _check_finite(self) -> None:
        buffers = ((name, b) for name, b in self.model.named_buffers() if "running_" in name)
        bad = [
            name
            for name, value in (*self.model.named_parameters(), *buffers)
            if value.is_floating_point() and not bool(torch.isfinite(value).all())
        ]
        if bad:
            raise ConfigError(
                f"the weights hold NaN or infinity in {len(bad)} tensors, such as {bad[0]!r}, as those of a "
                "run that diverged do; take an earlier checkpoint"
            )

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `name`.pth with the model, every checkpointable and `kwargs`, and marks it as the last."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path) as part, open(part, "wb") as file:
            torch.save(data, file)
            file.flush()
            # Before the file takes its name: after a power cut it could be there, and empty.
            os.fsync(file.fileno())
        self.tag_last_checkpoint(os.path.basename(path))

    def restore_final(self, *, iteration: int) -> None:
        """Writes model_final anew where it is damaged, or was not reached before the run was killed."""
        if self.save_to_disk and not is_intact(os.path.join(self.save_dir, "model_final.pth")):
            self.save("model_final", iteration=iteration)

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
