"""predict.py's body: images in, overlays and one COCO-format JSON out."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from tqdm import tqdm

from mrcnn_plugin.atomic_files import replacing, write_atomically
from mrcnn_plugin.checkpoint.atomic_checkpointer import AtomicCheckpointer, check_weights
from mrcnn_plugin.compat.warnings import silence
from mrcnn_plugin.config import fitting as datasets
from mrcnn_plugin.config.loading import Config, choose_device, load_config
from mrcnn_plugin.config.run_config import Job, make_job
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.evaluation.coco_evaluation import instances_to_coco_json
from mrcnn_plugin.reporting.pictures import above, class_name, draw_predictions

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}


def argument_parser() -> argparse.ArgumentParser:
    """The command line of predict.py."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Detect objects in images: an overlay of each, and one COCO-format predictions.json.",
        epilog="Exit status: 0; 1 if an image could not be read; 2 if the command line is wrong.",
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE", help="image files, folders, or quoted globs")
    parser.add_argument("--run", metavar="FOLDER", help="a run folder of train_net.py, for both")
    parser.add_argument("--config-file", metavar="FILE", help="LazyConfig (.py) or YAML file, or a zoo name")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint (default: the run's, or the config's)")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, metavar="S", help="in [0, 1]; default 0.5"
    )
    parser.add_argument("--output", default="predictions", metavar="FOLDER", help="default: predictions")
    parser.add_argument("--device", help="cuda, cuda:1, cpu, ...; chosen when not given")
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    return parser


@dataclass
class Predictor:
    """A model with all that it takes to read its input and to name its output.

    Attributes:
        job: the config's job.
        model: in eval mode.
        metadata: of the data that the model was trained for: class names, and the ids that its JSON uses.
        threshold: least score.
    """

    job: Job
    model: nn.Module
    metadata: Metadata
    threshold: float

    def __post_init__(self) -> None:
        self._mapper = self.job.test_mapper()

    @torch.no_grad()
    def __call__(self, path: str) -> Instances:
        """The instances of an image of at least the threshold's score, on the CPU, at the image's size."""
        instances = self.model([self._mapper({"file_name": path, "image_id": 0})])[0]["instances"]
        return above(instances, self.threshold)

    def coco_results(self, instances: Instances, image_id: int, file_name: str) -> list[dict]:
        """COCO's results format with `file_name` added; category ids are the data set's own.

        bbox is x, y, width, height in pixels; segmentation a compressed RLE; keypoints x, y, score a point.
        """
        results = instances_to_coco_json(instances, image_id)
        ids = self.metadata.get("thing_dataset_id_to_contiguous_id") or {}
        to_dataset = {contiguous: dataset for dataset, contiguous in ids.items()}
        for result in results:
            result["file_name"] = file_name
            result["category_id"] = to_dataset.get(result["category_id"], result["category_id"])
        return results


def build_predictor(
    config_file: str, weights: str = "", *, threshold: float = 0.5, device: str = "", opts: Sequence[str] = ()
) -> Predictor:
    """Loads a config and its weights.

    Args:
        weights: checkpoint; "" takes the config's own.
        threshold: least score, in [0, 1].
        device: "" chooses.

    Raises:
        ConfigError: the config, an override, the threshold or the weights are not usable.
        DatasetError: there is neither a run folder's metadata.json nor a data set to name the classes.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--score-threshold must be in [0, 1], got {threshold}")
    cfg, overridden = load_config(config_file, opts)
    metadata = _metadata(cfg, overridden, config_file)
    _set_device(cfg, device)
    _set_threshold(cfg, threshold)
    job = make_job(cfg, overridden)
    weights = weights or job.init_checkpoint
    if not weights:
        raise ConfigError("no weights: give --weights FILE, or --run FOLDER of a finished training")
    check_weights(weights, "--weights")
    model = job.model().eval()
    AtomicCheckpointer(model, whole=True).load(weights)
    return Predictor(job, model, metadata, threshold)


def _metadata(cfg: Config, overridden: set[str], config_file: str) -> Metadata:
    """That of a run folder, which needs no data set; else that of the config's data set."""
    saved = os.path.join(os.path.dirname(config_file), "metadata.json")
    if os.path.isfile(saved):
        return datasets.load_metadata(saved)
    datasets.register_datasets(cfg)
    datasets.fit_to_dataset(cfg, overridden)
    return datasets.dataset_metadata(cfg)


def _set_device(cfg: Config, device: str) -> None:
    if device:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from error
        if isinstance(cfg, CfgNode):
            cfg.MODEL.DEVICE = device
        else:
            OmegaConf.update(cfg, "train.device", device, force_add=True)
    choose_device(cfg)


def _set_threshold(cfg: Config, threshold: float) -> None:
    """Lets the model itself drop low scores, before it makes masks of them, and keep those asked for."""
    if isinstance(cfg, CfgNode):
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = threshold
        return
    keys = ["model.roi_heads.box_predictor.test_score_thresh", "model.test_score_thresh"]
    # A cascade has a predictor a stage.
    stages = OmegaConf.select(cfg, "model.roi_heads.box_predictors", default=None) or ()
    keys += [f"model.roi_heads.box_predictors.{stage}.test_score_thresh" for stage in range(len(stages))]
    for key in keys:
        if OmegaConf.select(cfg, key, default=None) is not None:
            OmegaConf.update(cfg, key, threshold)


def run_files(folder: str) -> tuple[str, str]:
    """Config and weights of a run folder: its config.yaml, and model_final.pth or the last checkpoint."""
    config = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config):
        raise ConfigError(f"--run {folder}: not a run folder, it has no config.yaml")
    final = os.path.join(folder, "model_final.pth")
    if os.path.isfile(final):
        return config, final
    last = AtomicCheckpointer(nn.Identity(), folder).get_checkpoint_file()
    if not last:
        raise ConfigError(f"--run {folder}: it has no checkpoint yet")
    return config, last


def find_images(inputs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Image files of the given files, folders (not their subfolders) and globs, each once, in order.

    Returns:
        The files, and those of `inputs` that are nothing.
    """
    files, missing = [], []
    for given in inputs:
        if os.path.isdir(given):
            found = sorted(str(p) for p in Path(given).iterdir() if p.suffix.lower() in _SUFFIXES)
        elif os.path.exists(given):
            found = [given]
        else:
            found = sorted(p for p in glob.glob(given, recursive=True) if os.path.isfile(p))
        files += found
        if not found:
            missing.append(given)
    return list(dict.fromkeys(files)), missing


def image_ids(files: Sequence[str]) -> list[int]:
    """The numbers in the file names where all are distinct numbers, as COCO's are; else 1, 2, ..."""
    stems = [Path(file).stem for file in files]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(files) + 1))


def _overlay_paths(files: Sequence[str], folder: str) -> Iterator[str]:
    """A PNG of the image's name for each; images of one name from several folders are numbered."""
    seen = Counter()
    for file in files:
        stem = Path(file).stem
        seen[stem] += 1
        yield os.path.join(folder, f"{stem}.png" if seen[stem] == 1 else f"{stem}_{seen[stem]}.png")


def main(args: argparse.Namespace) -> int:
    """Runs what `argument_parser` describes.

    Returns:
        1 if an image was missing or broken, else 0.

    Raises:
        ConfigError, DatasetError: the command line is wrong.
    """
    if bool(args.run) == bool(args.config_file):
        raise ConfigError("give either --run FOLDER, or --config-file FILE with --weights FILE")
    silence()
    config_file, weights = run_files(args.run) if args.run else (args.config_file, "")
    files, missing = find_images(args.inputs)
    if not files:
        raise ConfigError(f"no images found: {', '.join(missing or args.inputs)}")
    setup_logger(name="fvcore")
    predictor = build_predictor(
        config_file,
        args.weights or weights,
        threshold=args.score_threshold,
        device=args.device or "",
        opts=args.opts,
    )
    os.makedirs(args.output, exist_ok=True)
    failed = [f"{given}: no such file or folder" for given in missing]
    results = []
    bar = tqdm(files, desc="predicting", unit="image", file=sys.stderr, disable=None)
    for file, image_id, overlay in zip(bar, image_ids(files), _overlay_paths(files, args.output)):
        try:
            image = utils.read_image(file, format="RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            failed.append(f"{file}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            tqdm.write(f"skipped {failed[-1]}", file=sys.stderr)
            continue
        instances = predictor(file)
        results += predictor.coco_results(instances, image_id, file)
        picture = Image.fromarray(draw_predictions(image, instances, predictor.metadata))
        with replacing(overlay) as part:
            picture.save(part, format="PNG")
        tqdm.write(f"{file}: {_summary(instances, predictor.metadata)} -> {overlay}")
    path = os.path.join(args.output, "predictions.json")
    write_atomically(Path(path), json.dumps(results).encode())
    print(f"{len(results)} instances in {len(files) - len(failed) + len(missing)} images: {path}")
    if failed:
        print(f"{len(failed)} could not be read:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


def _summary(instances: Instances, metadata: Metadata) -> str:
    counts = Counter(class_name(index, metadata) for index in instances.pred_classes.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
