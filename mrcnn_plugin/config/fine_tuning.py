"""The fine-tuning recipe: settings that follow from the data and the device, each with its reason.

A LazyConfig asks for it by `train.recipe = "fine_tune"`. Whatever the command line sets is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tabulate import tabulate

from mrcnn_plugin.data import CocoSummary
from mrcnn_plugin.timing import times_as_fast

# Images seen in a whole run, from which the number of epochs follows, and images per iteration.
_IMAGES_SEEN = {"cpu": 2400, "cuda": 40000}
_BATCH_SIZE = {"cpu": 4, "cuda": 16}
_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 100
# AdamW's rate for a batch of 16.
_BASE_LR = 1e-3
# Shorter side of the input in pixels: the largest, of what a CPU trains on in minutes and as COCO's configs.
_LARGEST_INPUT = {"cpu": 320, "cuda": 800}
_SMALLEST_INPUT = 192
# The size, as sqrt(box area) in pixels of the input, below which an FPN's finest level sees little.
_SMALL_OBJECT = 16
# RoIs that an image is sampled for; the mask head's work is in proportion.
_MOST_ROIS = {"cpu": 128, "cuda": 512}
# Convolutions so many times as fast are worth bfloat16's three digits.
_BFLOAT16_GAIN = 1.5
# A class on fewer images than this is repeated (Gupta et al., arXiv 1908.03195, section 5.3).
_RARE = 0.1


@dataclass(frozen=True)
class Choice:
    """A setting that was chosen: a dotted key, its value, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class FineTuning:
    """Settings for a training set.

    Attributes:
        summary: of the training set; at least one image has annotations.
        device: "cpu", or what begins with "cuda".
        epochs: None chooses.
        batch_size: images per iteration; None chooses.
        anchors: how many sizes of anchors each feature map has.
        max_iter: None takes the epochs' number of iterations.
        bfloat16_gain: how many times as fast as float32 the device convolves in bfloat16.
    """

    summary: CocoSummary
    device: str
    epochs: float | None = None
    batch_size: int | None = None
    anchors: tuple[int, ...] = (1, 1, 1, 1, 1)
    max_iter: int | None = None
    bfloat16_gain: float = 1.0

    def choices(self) -> Iterator[Choice]:
        """Every setting, in the order in which the table of a run shows them."""
        yield from self._input_size()
        yield from self._anchors()
        yield from self._schedule()
        yield from self._precision()
        yield from self._rois()
        yield from self._masks()
        yield from self._sampler()

    @property
    def _kind(self) -> str:
        return "cuda" if self.device.startswith("cuda") else "cpu"

    @property
    def images(self) -> int:
        """Images that are trained on: Detectron2 leaves out those without annotations."""
        return self.summary.images - self.summary.empty_images

    @property
    def input_size(self) -> int:
        """Shorter side of the input in pixels, a multiple of 32."""
        own = _percentile(self.summary.short_edges, 50)
        size = own
        if self.summary.relative_sizes:
            # Enlarged twofold at the most: more shows no more.
            small = _percentile(self.summary.relative_sizes, 10)
            size = min(max(own, _SMALL_OBJECT / small), 2 * own)
        return 32 * round(min(max(size, _SMALLEST_INPUT), _LARGEST_INPUT[self._kind]) / 32)

    def _object_size(self, percent: int) -> float:
        """sqrt(box area) in pixels of the input that so many percent of the objects do not exceed."""
        return self.input_size * _percentile(self.summary.relative_sizes, percent)

    def _input_size(self) -> Iterator[Choice]:
        size = self.input_size
        why = f"images are {_percentile(self.summary.short_edges, 50):.0f} pixels at their shorter side"
        if self.summary.relative_sizes:
            why += f", a tenth of the objects below {self._object_size(10):.0f} in the input"
        if size == _LARGEST_INPUT[self._kind]:
            why += f"; more is not chosen on a {'GPU' if self._kind == 'cuda' else 'CPU'}"
        train, test = (f"dataloader.{split}.mapper.augmentations.0" for split in ("train", "test"))
        yield Choice(f"{test}.short_edge_length", size, why)
        sizes = sorted({32 * round(size * factor / 32) for factor in (0.8, 0.9, 1.0)})
        yield Choice(f"{train}.short_edge_length", sizes, "that, and a little smaller")
        longest = 32 * math.ceil(size * min(_percentile(self.summary.aspect_ratios, 95), 2.5) / 32)
        for split in (train, test):
            yield Choice(f"{split}.max_size", longest, "the images' aspect ratios (95% of them)")

    def _anchors(self) -> Iterator[Choice]:
        if not self.summary.relative_sizes:
            return
        low, high = self._object_size(5), self._object_size(95)
        # Each size is twice the one before: their middle is that of the objects, on a log scale.
        middle = (math.log2(low) + math.log2(high)) / 2
        finest = max(4, round(2 ** (middle - (sum(self.anchors) - 1) / 2)))
        sizes = (finest * 2**octave for octave in range(sum(self.anchors)))
        yield Choice(
            "model.proposal_generator.anchor_generator.sizes",
            [[next(sizes) for _ in range(count)] for count in self.anchors],
            f"90% of the objects are {low:.0f} to {high:.0f} pixels in the input",
        )

    def iterations(self) -> Choice:
        """`train.max_iter` of `epochs` and `batch_size`, both of which are given."""
        assert self.epochs is not None
        assert self.batch_size is not None
        iterations = max(1, math.ceil(self.epochs * self.images / self.batch_size))
        why = f"{self.epochs:g} epochs of {self.images} images, {self.batch_size} each"
        return Choice("train.max_iter", iterations, why)

    def _schedule(self) -> Iterator[Choice]:
        batch_size = self.batch_size or min(_BATCH_SIZE[self._kind], self.images)
        epochs = self.epochs
        if epochs is None:
            wanted = math.ceil(_IMAGES_SEEN[self._kind] / self.images)
            epochs = min(max(wanted, _FEWEST_EPOCHS), _MOST_EPOCHS)
        length = replace(self, epochs=epochs, batch_size=batch_size).iterations()
        iterations = self.max_iter or length.value
        warmup = min(max(iterations // 10, 1), 1000) if iterations > 1 else 0
        quarter = max(1, math.ceil(iterations / 4))
        rate = float(f"{_BASE_LR * math.sqrt(batch_size / 16):.2g}")
        yield Choice("dataloader.train.total_batch_size", batch_size, f"images at once on {self.device}")
        yield Choice("train.epochs", epochs, f"{epochs * self.images:.0f} images are seen in all")
        yield length
        share = round(warmup / iterations, 6)
        why = f"{warmup} iterations of warm-up, the others of decay"
        yield Choice("lr_multiplier.lengths", [share, round(1 - share, 6)], why)
        yield Choice("optimizer.lr", rate, f"{_BASE_LR:g} for 16 images, by the square root of the batch")
        yield Choice("train.eval_period", quarter, "four evaluations in all")
        yield Choice("train.checkpointer.period", quarter, "as often")

    def _precision(self) -> Iterator[Choice]:
        if self._kind == "cuda":
            yield Choice("train.amp.enabled", True, "float16 with scaled gradients, on a GPU")
        elif self.bfloat16_gain >= _BFLOAT16_GAIN:
            why = f"a convolution in bfloat16 takes 1/{self.bfloat16_gain:.1f} of the time here, measured"
            yield Choice("train.amp.enabled", True, why)

    def _rois(self) -> Iterator[Choice]:
        densest, mean = self.summary.densest, self.summary.instances / self.images
        why = f"{mean:.1f} instances per image, up to {densest}"
        sampled = min(max(32 * math.ceil(8 * mean / 32), 64), _MOST_ROIS[self._kind])
        yield Choice("model.roi_heads.batch_size_per_image", sampled, why)
        detections = max(100, 50 * math.ceil(1.5 * densest / 50))
        yield Choice("model.roi_heads.box_predictor.test_topk_per_image", detections, why)
        if detections > 100:
            reason = "COCO's 100 would leave instances out; AP is not comparable with AP at 100"
            yield Choice("dataloader.evaluator.max_dets_per_image", detections, reason)
        kept = [1000, max(300 if self._kind == "cpu" else 1000, 2 * detections)]
        yield Choice("model.proposal_generator.post_nms_topk", kept, "more proposals than detections")

    def _masks(self) -> Iterator[Choice]:
        if self.summary.rle_mask:
            why = f"{self.summary.rle_mask} masks are RLE, not polygons"
            yield Choice("dataloader.train.mapper.instance_mask_format", "bitmask", why)

    def _sampler(self) -> Iterator[Choice]:
        shares = {
            category["name"]: counts.images / self.images
            for category, counts in zip(self.summary.categories, self.summary.classes)
            if counts.images
        }
        rare = [name for name, share in shares.items() if share < _RARE]
        if len(shares) < 2 or not rare:
            return
        sampler = {
            "_target_": "mrcnn_plugin.data.repeat_factor_sampler",
            "dataset": "${..dataset}",
            "repeat_thresh": _RARE,
        }
        shown = ", ".join(rare[:5]) + (", ..." if len(rare) > 5 else "")
        why = f"classes on fewer than {_RARE:.0%} of the images: {shown}"
        yield Choice("dataloader.train.sampler", sampler, why)


def measure_bfloat16_gain() -> float:
    """Time of a 3x3 convolution and its gradients in float32 over that in bfloat16, on the CPU.

    Processors without instructions for bfloat16 convolve it more slowly than float32.
    """
    x = torch.randn(8, 128, 32, 32).requires_grad_()
    convolution = torch.nn.Conv2d(128, 128, 3, padding=1)

    def step(enabled: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            convolution(x).float().sum().backward()

    return times_as_fast(lambda: step(False), lambda: step(True))


def _percentile(quantiles: list[float], percent: int) -> float:
    """Of a summary's quantiles; percent is a multiple of 5."""
    return quantiles[percent // 5]


def table_of(choices: Sequence[Choice]) -> str:
    """The choices as a table for the log: key, value, reason."""
    rows = [(choice.key, _shown(choice.value), choice.reason) for choice in choices]
    return tabulate(rows, headers=["key", "value", "why"], disable_numparse=True)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        arguments = ", ".join(f"{k}={v}" for k, v in value.items() if k != "_target_" and "$" not in str(v))
        return f"{str(value.get('_target_')).rpartition('.')[2]}({arguments})"
    if isinstance(value, float):
        return f"{value:g}"
    return f"...{str(value)[-57:]}" if len(str(value)) > 60 else str(value)
