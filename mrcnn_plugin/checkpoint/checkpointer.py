"""Detectron2's checkpointer, reading files without running code from them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from detectron2 import checkpoint as d2_checkpoint
from torch import nn

from .reading import read_checkpoint


class DetectionCheckpointer(d2_checkpoint.DetectionCheckpointer):
    """Detectron2's DetectionCheckpointer with safe reading.

    Takes what Detectron2's takes (its own checkpoints, `detectron2://` zoo files, ImageNet backbones from
    Caffe2, torchvision and pycls) and .safetensors files. See `read_checkpoint` for what is refused.

    Args:
        model: the model to load into and to save.
        save_dir: folder of the checkpoints.
        allow_pickle: also read files that can only be read by running code that they name.
        checkpointables, save_to_disk: as Detectron2's.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, allow_pickle: bool = False, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.allow_pickle = allow_pickle

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_checkpoint(filename, allow_pickle=self.allow_pickle)
        if not isinstance(data, dict):
            raise ValueError(f"{filename} must hold a dict of weights, got {type(data).__name__}")
        loaded = _as_checkpoint(data, filename)
        check_native_names(loaded["model"], filename)
        # Detectron2's main branch takes "file?matching_heuristics=True".
        url = getattr(self, "_parsed_url_during_load", None)
        if url is not None and parse_qs(url.query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded


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
