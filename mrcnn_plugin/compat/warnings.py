"""Warnings that Detectron2's own code raises on a current PyTorch, and that no user can do anything about."""

from __future__ import annotations

import logging
import warnings

_MESSAGES = (
    # detectron2.utils.comm gathers objects through a ByteStorage.
    "TypedStorage is deprecated",
    # The anchor generators call meshgrid without its indexing argument.
    "torch.meshgrid: in an upcoming release",
    # AMPTrainer takes GradScaler and autocast from torch.cuda.amp.
    r"`torch\.cuda\.amp\.",
    # torch's own switch of oneDNN, and its reading of programs.
    "TF32 acceleration on top of oneDNN",
    "The given buffer is not writable",
)


def silence_warnings() -> None:
    """Leaves those warnings out, in this process."""
    for message in _MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    # collect_env imports it, and without a GPU it says so, which the log does anyway.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
