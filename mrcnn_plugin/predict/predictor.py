"""A trained model with all that it takes to read its input and to name its output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper, Metadata
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, check_weights
from mrcnn_plugin.config import RunConfig, dataset_metadata, fit_to_dataset, fit_to_device, load_config
from mrcnn_plugin.data import load_metadata
from mrcnn_plugin.data.images import IMAGE_ERRORS, deep_mode, unreadable
from mrcnn_plugin.errors import ConfigError, ImageError, first_line
from mrcnn_plugin.evaluation import instances_to_coco_json
from mrcnn_plugin.modeling import returning_masks_as
from mrcnn_plugin.optimization import check_precision, optimize_for_device


@dataclass
class Predictor:
    """Detects objects in image files.

    Attributes:
        config: of the model.
        model: in eval mode.
        metadata: of the data that the model was trained for: class names, and the ids that its JSON uses.
        threshold: least score.
    """

    config: RunConfig
    model: nn.Module
    metadata: Metadata
    threshold: float

    def __post_init__(self) -> None:
        self._mapper: Any = self.config.build_test_mapper()

    @property
    def device(self) -> str:
        """Torch device that the model is on."""
        return self.config.device

    def __call__(self, path: str) -> Instances:
        """The instances of an image of at least the threshold's score; see `predict`."""
        return self.predict(path)[0]

    def predict(self, path: str) -> tuple[Instances, np.ndarray]:
        """Detects the objects of an image file, which is decoded once.

        Returns:
            The instances, as `detect` gives them, and the image, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: the file is not an image that can be read; one line that says why.
        """
        model_input, image = self.read(path)
        return self.detect([model_input])[0], image

    @torch.no_grad()
    def detect(self, model_inputs: Sequence[dict]) -> list[Instances]:
        """Detects the objects of images, those of one size in one batch: padding would change the results.

        Args:
            model_inputs: of `read` or `model_input`.

        Returns:
            For each the instances of at least the threshold's score, on the CPU, at the image's size, with
            `pred_masks_rle` where the model is a MaskRCNN with masks.
        """
        by_size: dict[torch.Size, list[int]] = {}
        for index, model_input in enumerate(model_inputs):
            by_size.setdefault(model_input["image"].shape, []).append(index)
        found: dict[int, Instances] = {}
        with returning_masks_as(self.model, "rle"):
            for indices in by_size.values():
                outputs = self.model([model_inputs[index] for index in indices])
                for index, output in zip(indices, outputs):
                    instances = output["instances"]
                    found[index] = instances[instances.scores >= self.threshold].to("cpu")
        return [found[index] for index in range(len(model_inputs))]

    def read(self, path: str) -> tuple[dict, np.ndarray]:
        """Decodes an image file; several threads may.

        Returns:
            The model's input, and the image, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: the file is not an image that can be read; one line that says why.
        """
        try:
            if not os.path.isfile(path) or deep_mode(path):
                raise ValueError(path)
            return self._read(path)
        except IMAGE_ERRORS as error:
            raise ImageError(unreadable(path) or first_line(error)) from error

    def _read(self, path: str) -> tuple[dict, np.ndarray]:
        mapper = self._mapper
        if type(mapper) is not DatasetMapper:
            # Whatever a mapper of one's own does between file and tensor is its own business.
            return mapper({"file_name": path, "image_id": 0}), utils.read_image(path, format="RGB")
        image = utils.read_image(path, format=mapper.image_format)
        rgb = np.asarray(utils.convert_image_to_rgb(image, mapper.image_format), dtype=np.uint8)
        return self._mapped(image), rgb

    def model_input(self, image: Image.Image) -> dict:
        """The model's input of an image in memory; several threads may call it.

        Raises:
            ConfigError: the config's mapper is not Detectron2's own, and reads files itself.
        """
        mapper = self._mapper
        if type(mapper) is not DatasetMapper:
            raise ConfigError(
                "--tile and videos need the test mapper to be detectron2.data.DatasetMapper, got "
                f"{type(mapper).__name__}, which reads files itself"
            )
        return self._mapped(utils.convert_PIL_to_numpy(image, mapper.image_format))

    def _mapped(self, image: np.ndarray) -> dict:
        height, width = image.shape[:2]
        aug_input = T.AugInput(image)
        self._mapper.augmentations(aug_input)
        tensor = torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def coco_results(self, instances: Instances, image_id: int, file_name: str) -> list[dict]:
        """COCO's results format with `file_name` added; category ids are the data set's own.

        bbox is x, y, width, height in pixels; segmentation a compressed RLE; keypoints x, y, score per point.
        """
        return coco_results(self.metadata, instances, image_id, file_name)


def coco_results(metadata: Metadata, instances: Instances, image_id: int, file_name: str) -> list[dict]:
    """The results of `Predictor.coco_results`, with the category ids of `metadata`."""
    results = instances_to_coco_json(instances, image_id)
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    to_dataset = {contiguous: dataset for dataset, contiguous in ids.items()}
    for result in results:
        result["file_name"] = file_name
        result["category_id"] = to_dataset.get(result["category_id"], result["category_id"])
    return results


def check_threshold(threshold: float) -> None:
    """Raises ConfigError where a score threshold is not in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--score-threshold must be in [0, 1], got {threshold}")


def build_predictor(
    config_file: str,
    weights: str = "",
    *,
    threshold: float = 0.5,
    device: str = "",
    opts: Sequence[str] = (),
    trusted: bool = False,
    tta: bool = False,
    optimized: bool = True,
    precision: str = "float32",
    compiled: bool = False,
) -> Predictor:
    """Loads a config and its weights.

    Args:
        weights: checkpoint; "" takes the config's own.
        threshold: least score, in [0, 1].
        device: "" chooses.
        opts: overrides of the config.
        trusted: whether a YAML config, as a run folder's is, may name code that this package does not know
            (`mrcnn_plugin.config.untrusted`). A Python file is code, and always runs.
        tta: whether images are augmented; see `RunConfig.augmented`.
        optimized: on the CPU, predict with a copy that `mrcnn_plugin.optimize` makes of the model.
        precision: of that copy; "float32", "bfloat16" or "auto".
        compiled: whether the copy's backbone is compiled; see `mrcnn_plugin.optimization.compile_backbone`.

    Raises:
        ConfigError: the config, an override, the threshold or the weights are not usable.
        DatasetError: there is neither a run folder's metadata.json nor a data set to name the classes.
    """
    check_threshold(threshold)
    check_precision(precision, "--precision")
    config = load_config(config_file, opts, trusted=trusted)
    metadata = _metadata(config)
    fit_to_device(config, device)
    config.set_score_threshold(threshold)
    weights = weights or config.init_checkpoint
    if not weights:
        raise ConfigError("no weights: give --weights FILE, or --run FOLDER of a finished training")
    check_weights(weights, "--weights")
    model = config.build_model().eval()
    DetectionCheckpointer(model, whole=True).load(weights)
    if optimized:
        model = optimize_for_device(model, precision, compiled=compiled)
    if tta:
        model = config.augmented(model, metadata)
    return Predictor(config, model, metadata, threshold)


def _metadata(config: RunConfig) -> Metadata:
    """That of a run folder, which needs no data set; else that of the config's data set."""
    saved = os.path.join(os.path.dirname(config.path), "metadata.json")
    if os.path.isfile(saved):
        return load_metadata(saved)
    fit_to_dataset(config)
    return dataset_metadata(config)


#: Which weights of a run folder `run_files` finds: the best evaluation's, the averages, and the last ones.
CHECKPOINTS = ("final", "best", "ema")


def run_files(folder: str, checkpoint: str = "final") -> tuple[str, str]:
    """Config and weights of a run folder: its config.yaml, and model_final.pth or the last checkpoint.

    Args:
        checkpoint: one of `CHECKPOINTS`; "best" is model_best.pth, "ema" model_ema.pth.

    Raises:
        ConfigError: it holds no config, or no such checkpoint yet.
    """
    config = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config):
        raise ConfigError(f"--run {folder}: not a run folder, it has no config.yaml")
    weights = os.path.join(folder, f"model_{checkpoint}.pth")
    if os.path.isfile(weights):
        return config, weights
    if checkpoint != "final":
        key = {"best": "train.best_checkpoint.metric", "ema": "train.ema.decay"}[checkpoint]
        raise ConfigError(f"--checkpoint {checkpoint}: no {weights}; training with {key} writes it")
    last = DetectionCheckpointer(nn.Identity(), folder).get_checkpoint_file()
    if not last:
        raise ConfigError(f"--run {folder}: it has no checkpoint yet")
    return config, last


def named_files(
    run: str | None, checkpoint: str, config_file: str | None, weights: str | None
) -> tuple[str, str]:
    """Config and weights that a command line names.

    Args:
        run, checkpoint: of `run_files`; no run: the next two.
        config_file, weights: options of that name; weights go before those of the run.

    Raises:
        ConfigError: as `run_files`; or there is a checkpoint that no run, or a file as well, is named for.
    """
    if checkpoint != "final" and (weights or not run):
        raise ConfigError(f"--checkpoint {checkpoint} names weights of --run FOLDER; --weights names a file")
    config, found = run_files(run, checkpoint) if run else (config_file or "", "")
    return config, weights or found
