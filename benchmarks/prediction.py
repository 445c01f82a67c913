"""predict.py at scale: pictures a second, memory, kills and resumes, and a large picture by tiles.

    python benchmarks/prediction.py --run output/demo [--only folder kills tiles] [--json FILE]

folder: draws tiny pictures, or takes those of `--pictures` again and again under new names, and predicts them
by one process (with and without overlays), by two under torchrun, and by the programs of other checkouts
(`--programs-of`). The JSON of the first two must be the same to the last digit. Under torchrun a process has
fewer threads, so that its products differ in the last digits: each detection must be there within 0.1 pixels
and 0.001 of its score. Of other checkouts it is counted how many of their detections these have too.

kills: one process, and one that is killed three times at random moments and resumed. The merged JSON must be
the same, and no more may be predicted twice than a batch for each kill.

tiles: draws one large picture with many objects, none of which crosses a line of a grid of 1000 pixels. The
network sees it once by tiles of another size, which cut objects, and once as the small pictures of that grid,
which cut none. Both are scored against what was drawn.

Drawn pictures are those of the built-in data; the run is one on it (`make demo`). Memory is the process's
resident set, in MB: at the peak, and after each fifth of the results.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import process_memory
from PIL import Image
from pycocotools.coco import COCO

from mrcnn_plugin.data.synthetic.drawing import (
    SHAPES,
    contrasting_color,
    draw_sample,
    log_uniform,
    shape_polygon,
)
from mrcnn_plugin.evaluation import evaluate_coco

ROOT = Path(__file__).resolve().parents[1]
CELL = 1000
KILLS = 3
# Pixels of the built-in data's pictures, which the demo model has learned at; shapes are as large as there.
TRAINED_SIZE = 160
SUBPIXELS = 4


@dataclass
class Finished:
    """A program that has run: seconds, pictures a second from the first results that were seen to the last,
    MB of its largest resident set, MB after each fifth of its results."""

    seconds: float
    rate: float
    peak: float
    fifths: list[int]
    status: int


def command(checkout: Path, processes: int = 1) -> list[str]:
    python = str(checkout / ".venv" / "bin" / "python") if checkout != ROOT else sys.executable
    if processes == 1:
        return [python, "predict.py"]
    return [
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        # Else torchrun takes --run for an abbreviation of its own options.
        "--",
        "predict.py",
    ]


def run(
    arguments: list[str],
    output: Path,
    total: int,
    *,
    checkout: Path = ROOT,
    processes: int = 1,
    kill_at: int = 0,
) -> Finished:
    """Runs predict.py; with `kill_at` until there are so many results, then kills it."""
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // processes)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with open(output.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(
            [*command(checkout, processes), *arguments, "--output", str(output)],
            cwd=checkout,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    fifths: list[int] = []
    seen: list[tuple[float, int]] = []
    ended = 0
    while not ended:
        # wait4 also says how much memory the process has had.
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        done = lines(output)
        if done and (not seen or done > seen[-1][1]):
            seen.append((time.perf_counter(), done))
        if len(fifths) < 4 and done >= total * (len(fifths) + 1) / 5:
            fifths.append(round(process_memory.resident(process.pid) / process_memory.MB))
        if kill_at and done >= kill_at and not ended:
            os.killpg(process.pid, signal.SIGKILL)
            ended, status, usage = os.wait4(process.pid, 0)
        time.sleep(0.02 if kill_at else 0.2)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    rate = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]) if len(seen) > 1 else total / seconds
    return Finished(seconds, rate, usage.ru_maxrss / 1024, fifths, process.returncode)


def lines(output: Path) -> int:
    """Pictures with results; each file of JSON lines begins with a header. Without such files: overlays."""
    files = list(output.glob("predictions*.jsonl")) if output.is_dir() else []
    if not files:
        return sum(1 for _ in output.glob("*.png"))
    return sum(max(file.read_bytes().count(b"\n") - 1, 0) for file in files)


def pictures_in(args: argparse.Namespace, folder: Path) -> Path:
    """A folder of as many pictures as requested: drawn, or links to those of `--pictures`."""
    images = folder / "images"
    images.mkdir()
    given = sorted(path for each in args.pictures for path in each.iterdir() if path.is_file())
    for index in range(args.images):
        name = images / f"{index + 1:06d}"
        if given:
            source = given[index % len(given)].resolve()
            name = name.with_suffix(source.suffix)
            try:
                name.hardlink_to(source)
            except OSError:  # another file system
                shutil.copy(source, name)
        else:
            sample = draw_sample("shapes", args.size, index)
            Image.fromarray(sample.image).save(name.with_suffix(".png"))
    return images


def row_of(name: str, images: int, done: Finished, output: Path) -> dict:
    if done.status:
        raise SystemExit(f"{name} failed: {output.with_suffix('.log').read_text()[-2000:]}")
    return {
        "what": name,
        "pictures": images,
        "pictures a second": round(done.rate, 2),
        "seconds with start and end": round(done.seconds, 1),
        "peak MB": round(done.peak),
        "MB after each fifth": done.fifths,
    }


def measure_folder(args: argparse.Namespace, folder: Path) -> list[dict]:
    images = pictures_in(args, folder)
    base = [str(images), "--run", str(args.run), "--score-threshold", "0.05"]
    own = ["--batch", str(args.batch), *args.more]
    rows = []

    def note(name: str, done: Finished, output: Path, **more: object) -> str:
        rows.append({**row_of(name, args.images, done, output), **more})
        print(json.dumps(rows[-1]), flush=True)
        return (output / "predictions.json").read_text()

    whole = note(
        "one process, no overlays",
        run([*base, *own, "--no-overlays"], folder / "one", args.images),
        folder / "one",
    )
    assert json.loads(whole), "nothing was found"
    drawn = note("one process", run([*base, *own], folder / "drawn", args.images), folder / "drawn")
    assert drawn == whole
    assert len(list((folder / "drawn").glob("*.png"))) == args.images
    two = run([*base, *own, "--no-overlays"], folder / "two", args.images, processes=2)
    path = folder / "two" / "predictions.json"
    shared = agreement(json.loads(whole), json.loads(path.read_text()) if path.exists() else [])
    note("two processes (memory: of torchrun's own)", two, folder / "two", **shared)
    # Each of them has half of the threads, and products that are split otherwise differ in their last digits.
    assert len(set(shared.values())) == 1, shared
    for checkout in args.programs_of:
        output = folder / f"former_{len(rows)}"
        former = run(base, output, args.images, checkout=checkout.resolve())
        path = output / "predictions.json"
        theirs = json.loads(path.read_text()) if path.exists() else []
        note(
            f"one process, {checkout.name}",
            former,
            output,
            **agreement(json.loads(whole), theirs),
        )
    return rows


def agreement(ours: list[dict], theirs: list[dict]) -> dict[str, object]:
    """How many detections there are, and how many of theirs ours have within 0.1 pixels and 0.001."""
    found: dict[tuple, list[np.ndarray]] = {}
    for result in ours:
        key = Path(result["file_name"]).name, result["category_id"]
        found.setdefault(key, []).append(np.array([*result["bbox"], 100 * result["score"]]))
    shared = 0
    for result in theirs:
        mine = found.get((Path(result["file_name"]).name, result["category_id"]))
        if mine:
            row = np.array([*result["bbox"], 100 * result["score"]])
            shared += bool((np.abs(np.stack(mine) - row).max(1) <= 0.1).any())
    return {"detections, ours": len(ours), "theirs": len(theirs), "shared": shared}


def measure_kills(args: argparse.Namespace, folder: Path) -> list[dict]:
    images = pictures_in(args, folder)
    line = [str(images), "--run", str(args.run), "--score-threshold", "0.05", "--batch", str(args.batch)]
    line += [*args.more, "--no-overlays"]
    done = run(line, folder / "one", args.images)
    rows = [row_of("one process, no overlays", args.images, done, folder / "one")]
    print(json.dumps(rows[-1]), flush=True)
    whole = (folder / "one" / "predictions.json").read_text()
    assert json.loads(whole), "nothing was found"
    rows.append(killed(args, [*line, "--resume"], folder / "killed", whole))
    print(json.dumps(rows[-1]), flush=True)
    return rows


def killed(args: argparse.Namespace, arguments: list[str], output: Path, whole: str) -> dict:
    """Three kills at random moments; what is left of each run is the start of the next."""
    moments = sorted(random.Random(args.seed).sample(range(1, args.images - args.batch), KILLS))
    left = []
    for moment in moments:
        run(arguments, output, args.images, kill_at=moment)
        left.append(lines(output))
        assert not (output / "predictions.json").exists()
    done = run(arguments, output, args.images)
    assert done.status == 0, f"see {output.with_suffix('.log')}"
    assert (output / "predictions.json").read_text() == whole
    assert all(before <= after for before, after in zip([0, *left], [*left, args.images])), left
    twice = lines(output) - args.images
    assert twice <= KILLS * args.batch
    return {
        "what": f"killed with {left} of {args.images} results, resumed",
        "equal": True,
        "in the log twice": twice,
    }


def draw_large(path: Path, width: int, height: int, objects: int, seed: int) -> list[dict]:
    """Draws the picture, strip by strip, and returns the annotations, polygons."""
    rng = np.random.default_rng(seed)
    colors = rng.uniform(80, 175, (height // 600 + 2, width // 600 + 2, 3)).astype(np.float32)
    canvas = np.empty((height, width, 3), np.uint8)
    smooth_rows = cv2.resize(colors, (width, len(colors)), interpolation=cv2.INTER_CUBIC)
    for top in range(0, height, 250):
        bottom = min(top + 250, height)
        at = (np.arange(top, bottom) / height * (len(colors) - 1)).astype(np.float32)
        low = at.astype(int)
        share = (at - low)[:, None, None]
        strip = smooth_rows[low] * (1 - share) + smooth_rows[np.minimum(low + 1, len(colors) - 1)] * share
        strip += rng.normal(0, 6, (bottom - top, width, 1))
        canvas[top:bottom] = np.clip(strip, 0, 255)
    cells = [(x, y) for y in range(height // CELL or 1) for x in range(width // CELL or 1)]
    taken: list[tuple[float, float, float]] = []
    annotations = []
    for number in range(objects):
        cell = np.array(cells[number % len(cells)]) * CELL
        size = np.minimum(CELL, np.array([width, height]) - cell)
        while True:
            radius = log_uniform(rng, 0.055, 0.23) * TRAINED_SIZE
            center = cell + rng.uniform(radius + 4, size - radius - 4)
            if all(np.hypot(*(center - (x, y))) > radius + other + 6 for x, y, other in taken):
                break
        taken.append((*center, radius))
        category = int(rng.integers(len(SHAPES)))
        polygon = shape_polygon(rng, SHAPES[category], center, radius)
        paint(rng, canvas, polygon)
        x0, y0 = polygon.min(axis=0)
        x1, y1 = polygon.max(axis=0)
        annotations.append(
            {
                "category_id": category + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": float(cv2.contourArea(polygon.astype(np.float32))),
                "iscrowd": 0,
                "segmentation": [polygon.ravel().tolist()],
            }
        )
    Image.fromarray(canvas).save(path, compress_level=1)
    return annotations


def paint(rng: np.random.Generator, canvas: np.ndarray, polygon: np.ndarray) -> None:
    """Fills a polygon, anti-aliased and with grain, as the built-in data's shapes are."""
    x0, y0 = np.floor(polygon.min(axis=0)).astype(int) - 1
    x1, y1 = np.ceil(polygon.max(axis=0)).astype(int) + 1
    window = canvas[y0:y1, x0:x1].astype(np.float32)
    color = contrasting_color(rng, window.mean((0, 1)))
    covered = np.zeros((SUBPIXELS * (y1 - y0), SUBPIXELS * (x1 - x0)), np.float32)
    points = np.round((polygon - (x0, y0)) * SUBPIXELS - 0.5).astype(np.int32)
    cv2.fillPoly(covered, [points], 1.0)
    alpha = cv2.resize(covered, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)[..., None]
    grain = rng.normal(0, 6, (*window.shape[:2], 1))
    canvas[y0:y1, x0:x1] = np.clip(window * (1 - alpha) + (color + grain) * alpha, 0, 255)


def score(images: list[dict], annotations: list[dict], results: list[dict]) -> dict[str, float]:
    """Box and mask AP in percent, with a thousand detections to an image."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = _scores(images, annotations, results)
    return {task: round(100 * float(value), 2) for task, value in found.items()}


def _scores(images: list[dict], annotations: list[dict], results: list[dict]) -> dict[str, float]:
    truth = COCO()
    truth.dataset = {
        "images": images,
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(SHAPES, 1)],
    }
    truth.createIndex()
    return {
        task: evaluate_coco(truth, results, task, max_dets=(1, 10, 1000), faster=False).stats[0]
        for task in ("bbox", "segm")
    }


def measure_tiles(args: argparse.Namespace, folder: Path) -> list[dict]:
    large, small = folder / "large", folder / "small"
    large.mkdir()
    small.mkdir()
    annotations = draw_large(large / "1.png", args.width, args.height, args.objects, args.seed)
    base = ["--run", str(args.run), "--score-threshold", "0.05", "--batch", str(args.batch), *args.more]
    tiles = ["--tile", str(args.tile), "--overlap", str(args.overlap)]
    done = run([str(large), *base, *tiles], folder / "tiled", 1)
    if done.status:
        raise SystemExit(f"see {folder / 'tiled.log'}")
    results = json.loads((folder / "tiled" / "predictions.json").read_text())
    image = [{"id": 1, "width": args.width, "height": args.height}]
    rows = [
        {
            "what": f"{args.width} x {args.height}, {args.objects} objects, by tiles",
            **score(image, [{**a, "image_id": 1} for a in annotations], results),
            "seconds": round(done.seconds),
            "peak MB": round(done.peak),
        }
    ]
    print(json.dumps(rows[-1]), flush=True)
    images, parts = cut(large / "1.png", annotations, small)
    done = run([str(small), *base, "--no-overlays"], folder / "untiled", len(images))
    if done.status:
        raise SystemExit(f"see {folder / 'untiled.log'}")
    results = json.loads((folder / "untiled" / "predictions.json").read_text())
    rows.append(
        {
            "what": f"the same as {len(images)} small pictures",
            **score(images, parts, results),
            "seconds": round(done.seconds),
            "peak MB": round(done.peak),
        }
    )
    print(json.dumps(rows[-1]), flush=True)
    return rows


def cut(path: Path, annotations: list[dict], folder: Path) -> tuple[list[dict], list[dict]]:
    """The pictures of the grid, with their annotations."""
    Image.MAX_IMAGE_PIXELS = None
    picture = Image.open(path)
    images, parts = [], []
    for y in range(0, picture.height, CELL):
        for x in range(0, picture.width, CELL):
            part = picture.crop((x, y, min(x + CELL, picture.width), min(y + CELL, picture.height)))
            images.append({"id": len(images) + 1, "width": part.width, "height": part.height})
            part.save(folder / f"{len(images):06d}.png", compress_level=1)
            for annotation in annotations:
                left, top, width, height = annotation["bbox"]
                if x <= left < x + CELL and y <= top < y + CELL:
                    polygon = np.reshape(annotation["segmentation"][0], (-1, 2)) - (x, y)
                    parts.append(
                        {
                            **annotation,
                            "image_id": len(images),
                            "bbox": [left - x, top - y, width, height],
                            "segmentation": [polygon.ravel().tolist()],
                        }
                    )
    assert len(parts) == len(annotations)
    return images, parts


PARTS = {"folder": measure_folder, "kills": measure_kills, "tiles": measure_tiles}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run folder of the built-in shapes")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--images", type=int, default=2000, help="pictures (default: 2000)")
    parser.add_argument("--size", type=int, default=96, help="side in pixels of drawn ones (default: 96)")
    parser.add_argument(
        "--pictures", type=Path, nargs="*", default=[], metavar="FOLDER", help="take these, draw none"
    )
    parser.add_argument("--batch", type=int, default=4, help="of predict.py (default: 4)")
    parser.add_argument("--width", type=int, default=12_000)
    parser.add_argument("--height", type=int, default=9_000)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--tile", type=int, default=768)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--programs-of", type=Path, nargs="*", default=[], metavar="CHECKOUT")
    parser.add_argument(
        "--more",
        type=shlex.split,
        default=[],
        metavar="=ARGUMENTS",
        help="further arguments of predict.py, such as --more='--opts KEY=VALUE'",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    args.run = args.run.resolve()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in PARTS.items():
            if name in args.only:
                (Path(folder) / name).mkdir()
                rows += measure(args, Path(folder) / name)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
