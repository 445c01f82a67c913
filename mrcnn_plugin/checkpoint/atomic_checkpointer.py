"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from torch import nn

from mrcnn_plugin.atomic_files import replacing, write_atomically
from mrcnn_plugin.checkpoint import DetectionCheckpointer
from mrcnn_plugin.errors import ConfigError


class AtomicCheckpointer(DetectionCheckpointer):
    """The package's DetectionCheckpointer, whose files appear in one step, under their final names.

    Args:
        whole: refuse to load weights that leave a part of the model as it was initialised, as those of a
            backbone or of another number of classes do. Training starts from such; nothing else should.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, whole: bool = False, **kwargs: Any) -> None:
        super().__init__(model, save_dir, **kwargs)
        self.whole = whole

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As DetectionCheckpointer.load.

        Raises:
            ConfigError: the file cannot be read or fetched, or is not `whole`.
        """
        try:
            return super().load(path, *args, **kwargs)
        except ConfigError:
            raise
        except (OSError, ValueError, ImportError, EOFError, pickle.UnpicklingError) as error:
            raise ConfigError(f"weights {path!r} cannot be loaded: {str(error).splitlines()[0]}") from error

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

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Makes this file the one that `--resume` continues from."""
        write_atomically(Path(self.save_dir, "last_checkpoint"), last_filename_basename.encode())


def check_weights(path: str, key: str) -> None:
    """Raises ConfigError where `path` is a local file that does not exist; `key` is what set it."""
    if not path or "://" in path:
        return
    if not os.path.isfile(PathManager.get_local_path(path)):
        raise ConfigError(f"{key}: no weights at {path!r}; give a file, a URL, or '' to start from scratch")
