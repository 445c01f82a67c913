"""What an exported file says about itself."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from mrcnn_plugin.errors import ConfigError

#: The key under which each format keeps the JSON text of a description.
KEY = "mrcnn_plugin"


@dataclass(frozen=True)
class ModelDescription:
    """All that it takes to feed a graph, and to name what it finds.

    Attributes:
        version: of this package, when the file was written.
        outputs: names of the graph's outputs, in its order.
        color_order: "RGB" or "BGR", of the graph's input.
        image_size: height and width of the only pictures that the graph takes; None: any.
        min_size, max_size: of the resizing before the graph (Detectron2's ResizeShortestEdge); None: none.
        resizes: the graph itself resizes so, and its results are in pixels of the picture that it is given.
        pixel_mean: in the graph's colour order; what a picture is padded with to `image_size`.
        score_threshold: lower scores are not found.
        nms_threshold: IoU above which the lesser of two detections of a class is dropped.
        masks: "probabilities", "pasted", or None for a model without masks.
        mask_threshold: probability from which a pixel belongs to a mask.
        metadata: of the data set: thing_classes, thing_dataset_id_to_contiguous_id, keypoint_names, ...
        config: the model's config, as YAML.
        precision: of weights and maps: "fp32", "fp16" or "int8".
    """

    version: str
    outputs: list[str]
    color_order: str
    image_size: list[int] | None
    min_size: int | None
    max_size: int | None
    resizes: bool
    pixel_mean: list[float]
    score_threshold: float
    nms_threshold: float
    masks: str | None
    mask_threshold: float
    metadata: dict[str, Any]
    config: str
    precision: str = "fp32"

    def to_json(self) -> str:
        """As text, for the file."""
        return json.dumps(dataclasses.asdict(self))


def parse_description(text: str | None, path: str) -> ModelDescription:
    """What `ModelDescription.to_json` wrote into the file at `path`.

    Raises:
        ConfigError: the file has no description, or one of another version that lacks something.
    """
    if not text:
        raise ConfigError(f"{path} was not written by export.py: it has no metadata under the key {KEY!r}")
    fields = json.loads(text)
    known = dataclasses.fields(ModelDescription)
    missing = [
        field.name for field in known if field.default is dataclasses.MISSING and field.name not in fields
    ]
    if missing:
        version = fields.get("version", "another version")
        raise ConfigError(
            f"{path} was written by {version} of mrcnn_plugin and lacks {missing[0]!r}: export it anew"
        )
    return ModelDescription(**{field.name: fields[field.name] for field in known if field.name in fields})
