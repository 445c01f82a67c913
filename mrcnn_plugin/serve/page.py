"""The page: a picture in; overlay, table and COCO results out, above a score that a slider chooses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from detectron2.structures import Instances

from mrcnn_plugin.errors import ImageError
from mrcnn_plugin.predict import Predictor
from mrcnn_plugin.predict.inputs import image_ids, shown
from mrcnn_plugin.reporting.pictures import above, class_name, draw_predictions

# Seconds: how long a picture that nobody looks at any more is kept, and how often that is looked for.
_KEPT, _CHECKED = 3600, 600
_COLUMNS = ("class", "score", "x", "y", "width", "height")


@dataclass(frozen=True)
class Found:
    """What the network has seen of a picture.

    Attributes:
        file_name: as the picture's owner calls it, without folders.
        image: (H, W, 3) uint8 RGB.
        instances: of every score that the slider reaches.
    """

    file_name: str
    image: np.ndarray
    instances: Instances


@dataclass(frozen=True)
class View:
    """What the page shows of a picture at a threshold; each field is a component's value."""

    summary: str
    overlay: np.ndarray | None = None
    rows: tuple[tuple, ...] = ()
    results: str = ""


def detect(predictor: Predictor, path: str) -> Found:
    """Reads a picture as predict.py does, and runs the network.

    Raises:
        ImageError: it cannot be read; one line that says why.
    """
    instances, image = predictor.predict(path)
    return Found(shown(Path(path).name), image, instances)


def view(predictor: Predictor, found: Found, threshold: float) -> View:
    """The instances of at least this score: how many, drawn, listed, and in COCO's results format."""
    instances = above(found.instances, threshold)
    number = len(instances)
    height, width = found.image.shape[:2]
    (image_id,) = image_ids([found.file_name])
    results = predictor.coco_results(instances, image_id, found.file_name)
    rows = [
        (class_name(index, predictor.metadata), round(result["score"], 3), *map(round, result["bbox"]))
        for index, result in zip(instances.pred_classes.tolist(), results)
    ]
    return View(
        f"{found.file_name}, {width} x {height}: {number or 'no'} instance{'' if number == 1 else 's'} "
        f"with a score of at least {threshold:.2f}",
        draw_predictions(found.image, instances, predictor.metadata),
        tuple(rows),
        json.dumps(results, indent=1),
    )


def page_of(predictor: Predictor, name: str, threshold: float) -> gr.Blocks:
    """The page of a predictor, not yet offered to anyone.

    Args:
        predictor: its threshold is the slider's lower end.
        name: of the model.
        threshold: where the slider stands at first; raised to its lower end.
    """
    least = predictor.threshold
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(_CHECKED, _KEPT)) as page:
        gr.Markdown(f"# {name}", sanitize_html=True)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                # gr.Image would decode the file first, and report a broken one in its own way.
                upload = gr.File(label="Drop a picture here", height=140, elem_id="upload")
                slider = gr.Slider(
                    least,
                    1.0,
                    value=max(threshold, least),
                    step=0.01,
                    label="Least score",
                    elem_id="threshold",
                )
                summary = gr.Textbox(label="Found", value="No picture yet.", lines=2, elem_id="summary")
                table = gr.Dataframe(
                    headers=list(_COLUMNS), interactive=False, max_height=420, elem_id="instances"
                )
            with gr.Column(scale=2, min_width=480):
                overlay = gr.Image(
                    label="Overlay",
                    format="png",
                    height="80vh",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="overlay",
                )
        with gr.Accordion("COCO results", open=False):
            results = gr.Code(language="json", interactive=False, max_lines=30, elem_id="results")
        # One picture for each visitor, and not for ever.
        state = gr.State(None, time_to_live=_KEPT)
        outputs = [summary, overlay, table, results]

        def values(shown_: View) -> tuple:
            return shown_.summary, shown_.overlay, [list(row) for row in shown_.rows], shown_.results

        def on_picture(path: str | None, least_score: float) -> tuple:
            if path is None:
                return None, *values(View("No picture yet."))
            try:
                found = detect(predictor, path)
            except ImageError as error:
                return None, *values(View(f"{shown(Path(path).name)} cannot be read: {error}"))
            return found, *values(view(predictor, found, least_score))

        def on_threshold(found: Found | None, least_score: float) -> tuple:
            if found is None:
                return tuple(gr.skip() for _ in outputs)
            return values(view(predictor, found, least_score))

        # One picture at a time: the network is shared.
        upload.change(on_picture, [upload, slider], [state, *outputs], concurrency_limit=1)
        slider.change(
            on_threshold, [state, slider], outputs, show_progress="hidden", trigger_mode="always_last"
        )
    return page
