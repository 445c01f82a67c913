"""Where a training step's time goes, by stage, forward and backward: Detectron2's model and ours in one run.

    python benchmarks/training_step.py [--config NAME] [--dataset NAME] [--batch N] [--short-edge PIXELS]
        [--amp] [--memory-format channels_last] [--steps N] [--json FILE]

Both have the same weights, batches and random numbers, and take their steps in turn. A stage's backward is
the time of the autograd functions that its forward has made (torch.profiler, by sequence number), so the
profiler's own cost, some microseconds per operation, is in every row. `--dataset` is a registered name or
coco:ANNOTATIONS.json:IMAGE_ROOT. Ours trains as train_net.py does; Detectron2's with its own trainer, or
with bfloat16 autocast around its forward where `--amp` asks for it on the CPU. Losses of the first
step are compared.
"""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import argparse
import functools
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from model_zoo import detectron2_model
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from mrcnn_plugin import model_zoo
from mrcnn_plugin.config.optimizer import build_optimizer
from mrcnn_plugin.config.run_config import MEMORY_FORMATS, memory_format_of
from mrcnn_plugin.data import ensure_registered
from mrcnn_plugin.train.kernels import use_kernels
from mrcnn_plugin.train.trainer import Trainer

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
PREFIX = "stage: "
#: stage -> the methods that are it, as paths from the model; a stage within another counts for itself alone.
STAGES = {
    "backbone": ["backbone.forward"],
    "RPN head": ["proposal_generator.rpn_head.forward"],
    "anchors: match, sample": ["proposal_generator.label_and_sample_anchors"],
    "RPN losses": ["proposal_generator.losses"],
    "proposals": ["proposal_generator.predict_proposals"],
    "RoIs: match, sample": ["roi_heads.label_and_sample_proposals"],
    "pooling": ["roi_heads.box_pooler.forward", "roi_heads.mask_pooler.forward"],
    "box head": ["roi_heads.box_head.forward", "roi_heads.box_predictor.forward"],
    "box losses": ["roi_heads.box_predictor.losses"],
    # Ours predicts one class, and Detectron2's every class, of what `layers` holds.
    "mask head": ["roi_heads.mask_head.masks_of", "roi_heads.mask_head.layers"],
    "mask targets and loss": ["roi_heads.mask_head.forward"],
}
OPTIMIZER, REST = "optimizer", "everything else"
#: Of the whole step on all threads: what a busy machine does not change as much as the time.
PROCESSOR = ("processor", "")
LIBRARIES = ("Detectron2", "ours")


def mark_stages(model: nn.Module) -> None:
    """Lets every stage's methods appear in the profile by its name."""
    for stage, paths in STAGES.items():
        for path in paths:
            owner, _, name = path.rpartition(".")
            part = functools.reduce(lambda one, key: getattr(one, key, None), owner.split("."), model)
            if part is not None and hasattr(part, name):
                setattr(part, name, _marked(stage, getattr(part, name)))


def _marked(stage: str, method: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(PREFIX + stage):
            return method(*args, **kwargs)

    return call


def trainer_of(
    model: nn.Module, library: str, batches: list[list[dict]], args: argparse.Namespace
) -> SimpleTrainer:
    """What takes the steps; ours on the kernels that train_net.py gives it."""
    mine = library == "ours"
    if mine:
        memory_format = memory_format_of(args.memory_format, "cpu")
        use_kernels(model, memory_format, fused=not args.plain_convolutions, amp=args.amp)
    parameters = [p for p in model.parameters() if p.requires_grad]
    options = {"fused": True} if mine else {}
    optimizer = build_optimizer(torch.optim.AdamW, parameters, clip_norm=1.0, lr=1e-6, **options)
    mark_stages(model)
    batches_again = _forever(batches)
    if mine:
        precision = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=args.amp)
        trainer = Trainer(model, batches_again, optimizer, precision=precision)
    else:
        trainer = SimpleTrainer(model, batches_again, optimizer)
        if args.amp:
            model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    optimizer.step = _marked(OPTIMIZER, optimizer.step)
    return trainer


class _forever:
    """The batches, again and again."""

    def __init__(self, batches: list[list[dict]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[dict]]:
        while True:
            yield from self._batches


def profiled(trainer: SimpleTrainer, seed: int) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """One step: seconds by (stage, "forward" or "backward"), and the losses."""
    torch.manual_seed(seed)
    with EventStorage() as storage, profile(activities=[ProfilerActivity.CPU]) as profiler:
        start, processor = time.perf_counter(), time.process_time()
        trainer.run_step()
        total, processor = time.perf_counter() - start, time.process_time() - processor
    seconds = by_stage(profiler.events())
    seconds[REST, "forward"] = total - sum(seconds.values())
    seconds[PROCESSOR] = processor
    losses = {name: value for name, (value, _) in storage.latest().items() if name.startswith("loss")}
    return seconds, losses


def by_stage(events: list) -> dict[tuple[str, str], float]:
    """Seconds of each stage without the stages in it, and of the autograd functions that it made."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    stage_of: dict[int, str] = {}
    for event in events:
        stage = _enclosing_stage(event)
        if event.name.startswith(PREFIX):
            own = event.name.removeprefix(PREFIX)
            seconds[own, "forward"] += event.cpu_time_total / 1e6
            if stage is not None:
                seconds[stage, "forward"] -= event.cpu_time_total / 1e6
        elif stage is not None and event.sequence_nr >= 0 and not _is_backward(event):
            stage_of.setdefault(event.sequence_nr, stage)
    for event in events:
        if event.name.startswith("autograd::engine::evaluate_function: "):
            stage = stage_of.get(event.sequence_nr, REST)
            seconds[stage, "backward"] += event.cpu_time_total / 1e6
    return seconds


def _enclosing_stage(event: Any) -> str | None:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(PREFIX):
            return parent.name.removeprefix(PREFIX)
        parent = parent.cpu_parent
    return None


def _is_backward(event: Any) -> bool:
    return event.name.startswith("autograd::engine") or event.name.endswith("Backward0")


def load(args: argparse.Namespace) -> tuple[list[list[dict]], float, float]:
    """Batches of real pictures, and the seconds per picture of the mapper and per batch of the loader."""
    ensure_registered(args.dataset)
    resize = T.ResizeShortestEdge(args.short_edge, 1333)
    mapper = DatasetMapper(
        True, augmentations=[resize, T.RandomFlip()], image_format="BGR", use_instance_mask=True
    )
    dicts = get_detection_dataset_dicts(args.dataset)
    start = time.perf_counter()
    for one in dicts[:8]:
        mapper(one)
    mapping = (time.perf_counter() - start) / min(8, len(dicts))
    loader = iter(
        build_detection_train_loader(
            dicts, mapper=mapper, total_batch_size=args.batch, num_workers=args.workers
        )
    )
    batches = [next(loader)]
    start = time.perf_counter()
    batches += [next(loader) for _ in range(args.steps)]
    return batches, mapping, (time.perf_counter() - start) / args.steps


def build(config: DictConfig) -> dict[str, nn.Module]:
    """Both models, with the same weights."""
    torch.manual_seed(0)
    ours = instantiate(config)
    theirs = instantiate(detectron2_model(config))
    theirs.load_state_dict(ours.state_dict())
    return {"Detectron2": theirs, "ours": ours}


def table(medians: dict[str, dict[tuple[str, str], float]]) -> str:
    rows = []
    for stage in [*STAGES, OPTIMIZER, REST]:
        cells = [
            f"{1000 * medians[lib].get((stage, way), 0.0):.0f}"
            for way in ("forward", "backward")
            for lib in LIBRARIES
        ]
        rows.append([stage, *cells])
    ways = ("forward", "backward")
    sums = {
        (lib, way): sum(seconds for (_, one), seconds in medians[lib].items() if one == way)
        for way in ways
        for lib in LIBRARIES
    }
    rows.append(["sum", *(f"{1000 * seconds:.0f}" for seconds in sums.values())])
    totals = {lib: sum(sums[lib, way] for way in ways) for lib in LIBRARIES}
    header = ["ms", "forward, Detectron2", "ours", "backward, Detectron2", "ours"]
    ratio = totals["Detectron2"] / totals["ours"]
    busy = {lib: medians[lib][PROCESSOR] for lib in LIBRARIES}
    ends = (
        f"step: Detectron2 {totals['Detectron2']:.2f} s, ours {totals['ours']:.2f} s, ratio **{ratio:.2f}**; "
        f"of processors: {busy['Detectron2']:.2f} s, {busy['ours']:.2f} s, "
        f"ratio {busy['Detectron2'] / busy['ours']:.2f}"
    )
    return f"{tabulate(rows, header, tablefmt='pipe', disable_numparse=True)}\n\n{ends}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=CONFIG, help=f"of the model zoo (default: {CONFIG})")
    parser.add_argument(
        "--dataset", default="shapes_train", help="training set (default: the built-in shapes)"
    )
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--short-edge", type=int, default=480, help="pixels")
    parser.add_argument("--rois", type=int, help="RoIs sampled from an image; by default the config's")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--memory-format", choices=sorted(MEMORY_FORMATS), default="auto", help="of ours")
    parser.add_argument(
        "--plain-convolutions", action="store_true", help="ours without train.fused_convolutions"
    )
    parser.add_argument("--steps", type=int, default=5, help="measured, after one of warm-up")
    parser.add_argument("--workers", type=int, default=1, help="processes of the loader")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = model_zoo.get_config(args.config).model
    batches, mapping, loading = load(args)
    config.roi_heads.num_classes = 1 + max(int(image["instances"].gt_classes.max()) for image in batches[0])
    config.roi_heads.num_classes = max(config.roi_heads.num_classes, 4)
    if args.rois:
        config.roi_heads.batch_size_per_image = args.rois
    trainers = {name: trainer_of(model, name, batches, args) for name, model in build(config).items()}
    found: dict[str, list[dict]] = {library: [] for library in LIBRARIES}
    first: dict[str, dict[str, float]] = {}
    for turn in range(args.steps + 1):
        for library in LIBRARIES if turn % 2 else reversed(LIBRARIES):
            seconds, losses = profiled(trainers[library], turn)
            first.setdefault(library, losses)
            if turn:
                found[library].append(seconds)
        print(f"\r{turn}/{args.steps} steps", end="", file=sys.stderr, flush=True)
    medians = {
        library: {
            key: statistics.median(one.get(key, 0.0) for one in steps)
            for key in {k for s in steps for k in s}
        }
        for library, steps in found.items()
    }
    worst = max(abs(first["ours"][name] - loss) for name, loss in first["Detectron2"].items())
    print(
        f"\n{args.config}, {args.batch} images of {args.dataset} at {args.short_edge} pixels, "
        f"{'bfloat16' if args.amp else 'float32'}, ours {args.memory_format}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n"
    )
    print(table(medians))
    print(
        f"mapper {1000 * mapping:.0f} ms per image; loader's next batch {1000 * loading:.0f} ms, "
        f"{args.workers} worker(s)"
    )
    print(f"losses of the first step differ by at most {worst:.1e}")
    if args.json:
        plain = {
            lib: {f"{stage}, {way}": s for (stage, way), s in one.items()} for lib, one in medians.items()
        }
        args.json.write_text(json.dumps({"seconds": plain, "mapper": mapping, "loader": loading}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
