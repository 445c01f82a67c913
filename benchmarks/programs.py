"""Seconds per image that predict.py and evaluation spend outside the network, through the programs.

    python benchmarks/programs.py --run output/demo --images FOLDER --annotations FILE.json

Runs predict.py and `train_net.py --eval-only` as a user does and takes the time between the end of one
image's network (backbone, proposals, heads) and the beginning of the next one's: decoding, resizing, pasting,
encoding, drawing, writing. Scores go down to 0, so that each image has as many detections as the model gives.
The annotations may be of any classes: they are counted as the first of the model's. `--programs-of` measures
another checkout's programs too, by the Python of its .venv.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Runs a program with its arguments and prints the gaps between the network's runs; the first images warm up.
_TIMED = """
import json, runpy, sys, time
import mrcnn_plugin
from detectron2.modeling import GeneralizedRCNN
from mrcnn_plugin.modeling import MaskRCNN
# What MaskRCNN.inference calls before it pastes.
owner, name = (MaskRCNN, "_detect") if hasattr(MaskRCNN, "_detect") else (GeneralizedRCNN, "inference")
network, spans, found = getattr(owner, name), [], []
def timed(self, batched_inputs, detected_instances=None, do_postprocess=True):
    start = time.perf_counter()
    results = network(self, batched_inputs, detected_instances, do_postprocess)
    spans.append((start, time.perf_counter()))
    found.append(sum(len(result) for result in results))
    return results
setattr(owner, name, timed)
images, program = int(sys.argv[1]), sys.argv[2]
sys.argv = sys.argv[2:]
try:
    runpy.run_path(program, run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
spans, found = spans[:images], found[:images]
gaps = [after[0] - before[1] for before, after in zip(spans[2:], spans[3:])]
inside = [end - start for start, end in spans[2:]]
print("TIMES " + json.dumps({"outside": gaps, "inside": inside, "detections": sum(found) / len(found)}))
"""


def times(python: str, folder: Path, images: int, *arguments: str) -> dict:
    """What `_TIMED` prints of one run of a program."""
    command = [python, "-c", _TIMED, str(images), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("TIMES ")]
    if not lines:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{result.stdout[-2000:]}{result.stderr[-4000:]}")
    return json.loads(lines[0].removeprefix("TIMES "))


def annotations_for(run: Path, annotations: Path, path: Path) -> None:
    """The annotations with the run's classes in place of their own, all of them counted as the first."""
    names = json.loads((run / "metadata.json").read_text())["thing_classes"]
    data = json.loads(annotations.read_text())
    data["categories"] = [{"id": index, "name": name} for index, name in enumerate(names, 1)]
    for annotation in data["annotations"]:
        annotation["category_id"] = 1
        annotation.pop("keypoints", None)
    path.write_text(json.dumps(data))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run folder of train_net.py")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO annotations of them")
    parser.add_argument("--programs-of", type=Path, nargs="*", default=[], metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn (default: 3)")
    args = parser.parse_args()
    count = len(json.loads(args.annotations.read_text())["images"])
    run = args.run.resolve()
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder, "annotations.json")
        annotations_for(run, args.annotations, annotations)
        name = f"coco:{annotations}:{args.images.resolve()}"
        checkouts = {str(ROOT): sys.executable}
        checkouts |= {str(c.resolve()): str(c.resolve() / ".venv/bin/python") for c in args.programs_of}
        commands = {
            "predict.py": (
                *("predict.py", str(args.images.resolve()), "--run", str(run)),
                *("--score-threshold", "0", "--output", os.path.join(folder, "out")),
            ),
            "train_net.py --eval-only": (
                *("train_net.py", "--config-file", str(run / "config.yaml"), "--eval-only"),
                f"train.init_checkpoint={run / 'model_final.pth'}",
                f"train.output_dir={folder}/eval",
                f"dataloader.test.dataset.names={name}",
                f"dataloader.train.dataset.names={name}",
                "dataloader.evaluator.output_dir=null",
                "model.roi_heads.box_predictor.test_score_thresh=0.0",
            ),
        }
        for program, arguments in commands.items():
            for checkout, python in list(checkouts.items()) * args.rounds:
                result = times(python, Path(checkout), count, *arguments)
                outside, inside = (1000 * statistics.mean(result[k]) for k in ("outside", "inside"))
                print(
                    f"{program:25} {Path(checkout).name:12} outside {outside:7.1f} ms, "
                    f"network {inside:7.1f} ms, {result['detections']:.0f} detections per image",
                    flush=True,
                )


if __name__ == "__main__":
    main()
