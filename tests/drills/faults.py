"""One fault after another in runs of the programs: a row each of what was done and what it came to, as JSON.

faults.py FOLDER [NAME ...]. Those that need a file system of a few megabytes mount one, and so need root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from drills.forked import Run, shapes
from drills.killed_runs import same
from helpers.tiny_runs import metrics_of, start, tiny_arguments
from tabulate import tabulate

from mrcnn_plugin.data import register_shapes_set

ENDLESS = "train.max_iter=100000"
NO_TEST = "dataloader.evaluator=null"
DRILLS: dict[str, Callable[[Path], dict]] = {}


def drill(function: Callable[[Path], dict]) -> Callable[[Path], dict]:
    DRILLS[function.__name__] = function
    return function


def row(run: Run, **more: object) -> dict:
    """What a run came to."""
    return {
        "status": run.status,
        "errors": [line[:300] for line in run.errors],
        "traceback": "Traceback" in run.text(),
        **more,
    }


def lines(folder: Path) -> int:
    path = folder / "metrics.json"
    return path.read_text().count("\n") if path.exists() else 0


def resumes(folder: Path, arguments: list[str]) -> bool:
    """Whether --resume goes on from the last checkpoint, for two iterations, without a word of error."""
    last = folder / (folder / "last_checkpoint").read_text()
    iteration = torch.load(last, weights_only=True)["iteration"]
    more = ["--resume", f"train.max_iter={iteration + 3}"]
    run = Run(folder.parent / f"{folder.name}.resumed.log", [*arguments, *more])
    steps = [m["iteration"] for m in metrics_of(folder) if "total_loss" in m] if run.wait() == 0 else []
    return bool(steps) and len(steps) == len(set(steps)) and not run.errors


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float = 1) -> Iterator[Path]:
    """A file system of its own, of so many megabytes."""
    folder.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True, capture_output=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all room but `leave` bytes."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    if leave:
        os.truncate(path, max(0, path.stat().st_size - leave))
    return path


@drill
def second_run_in_a_folder(root: Path) -> dict:
    arguments = tiny_arguments(shapes(root), root / "run", NO_TEST)
    first = Run(root / "first.log", [*arguments, ENDLESS, "train.checkpointer.period=2"])
    first.until(lambda: lines(root / "run") > 4)
    second = Run(root / "second.log", arguments)
    second.wait()
    first_unharmed = first.alive()
    first.kill(signal.SIGKILL)
    return row(second, first_unharmed=first_unharmed, resumes_after_kill=resumes(root / "run", arguments))


@drill
def truncated_last_checkpoint(root: Path) -> dict:
    arguments = tiny_arguments(shapes(root), root / "run", NO_TEST, "train.checkpointer.period=2")
    Run(root / "first.log", arguments).wait()
    last = root / "run" / "model_final.pth"
    os.truncate(last, last.stat().st_size // 2)
    second = Run(root / "second.log", [*arguments, "--resume"])
    second.wait()
    said = "model_final.pth is damaged or missing; looking at the checkpoint before it" in second.text()
    return row(second, said=said, whole_again=bool(torch.load(last, weights_only=True)))


@drill
def file_size_limit(root: Path) -> dict:
    arguments = tiny_arguments(shapes(root), root / "run", NO_TEST)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    run = Run(root / "limited.log", arguments, prepare=limit)
    run.wait()
    left = [path.name for path in (root / "run").iterdir() if path.suffix == ".pth"]
    return row(run, left=left)


@drill
def full_disk_at_a_checkpoint(root: Path) -> dict:
    data = shapes(root)
    with small_disk(root / "disk", 2) as disk:
        more = [NO_TEST, "train.checkpointer.period=1", "train.checkpointer.max_to_keep=1000"]
        arguments = tiny_arguments(data, disk / "run", *more)
        run = Run(root / "full.log", [*arguments, ENDLESS])
        run.wait()
        for path in sorted((disk / "run").glob("model_*.pth"))[:-1]:
            path.unlink()
        return row(run, resumes_with_room=resumes(disk / "run", arguments))


@drill
def full_disk_at_the_metrics(root: Path) -> dict:
    data = shapes(root)
    with small_disk(root / "disk", 3) as disk:
        arguments = tiny_arguments(data, disk / "run", NO_TEST, "train.checkpointer.period=2")
        run = Run(root / "full.log", [*arguments, ENDLESS, "train.checkpointer.max_to_keep=2"])
        run.until(lambda: lines(disk / "run") > 4)
        filler = fill(disk)
        run.wait()
        filler.unlink()
        return row(run, resumes_with_room=resumes(disk / "run", arguments))


@drill
def full_disk_at_the_predictions(root: Path) -> dict:
    data = shapes(root)
    Run(root / "train.log", tiny_arguments(data, root / "run", NO_TEST)).wait()
    images = data["val"].rpartition(":")[2]
    with small_disk(root / "disk", 0.1) as disk:
        arguments = [images, "--run", str(root / "run"), "--output", str(disk / "out")]
        fill(disk, leave=16_384)
        run = Run(root / "full.log", [*arguments, "--score-threshold", "0"], program="predict")
        run.wait()
        left = [path.name for path in (disk / "out").iterdir() if path.name.startswith(".")]
        return row(run, half_written=left)


@drill
def full_disk_at_the_results(root: Path) -> dict:
    """Of predict.py without overlays: the lines that it appends, and what --resume then does."""
    data = shapes(root, images=60)
    Run(root / "train.log", tiny_arguments(data, root / "run", NO_TEST)).wait()
    images = data["val"].rpartition(":")[2]
    with small_disk(root / "disk", 0.1) as disk:
        arguments = [
            images,
            "--run",
            str(root / "run"),
            "--score-threshold",
            "0",
            "--no-overlays",
            "--output",
        ]
        filler = fill(disk, leave=16_384)
        run = Run(root / "full.log", [*arguments, str(disk / "out")], program="predict")
        run.wait()
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = Run(root / "again.log", [*arguments, str(disk / "out"), "--resume"], program="predict")
        again.wait()
        Run(root / "whole.log", [*arguments, str(root / "whole")], program="predict").wait()
        results = [(folder / "predictions.json").read_bytes() for folder in (disk / "out", root / "whole")]
        return row(run, resumes=again.status == 0 and results[0] == results[1])


@drill
def full_disk_at_drawn_data(root: Path) -> dict:
    with small_disk(root / "disk", 0.2) as disk:
        for split in ("train", "val"):
            register_shapes_set(f"drill_{split}", str(disk), "shapes", split)
        run = Run(
            root / "full.log", tiny_arguments({"train": "drill_train", "val": "drill_val"}, root / "run")
        )
        run.wait()
        return row(run)


@drill
def read_only_folder(root: Path) -> dict:
    data = shapes(root)
    with small_disk(root / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run = Run(root / "ro.log", tiny_arguments(data, disk / "run"))
        run.wait()
        Run(root / "train.log", tiny_arguments(data, root / "run", NO_TEST)).wait()
        images = data["val"].rpartition(":")[2]
        arguments = [images, "--run", str(root / "run"), "--output", str(disk / "out")]
        other = Run(root / "predict.log", arguments, program="predict")
        other.wait()
        return row(run, predict=row(other))


@drill
def worker_process_killed(root: Path) -> dict:
    more = [NO_TEST, "dataloader.train.num_workers=2", "train.checkpointer.period=2"]
    arguments = tiny_arguments(shapes(root), root / "run", *more)
    run = Run(root / "worker.log", [*arguments, ENDLESS])
    run.until(lambda: lines(root / "run") > 4)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    start = time.monotonic()
    os.kill(int(children[-1]), signal.SIGKILL)
    run.wait()
    seconds = round(time.monotonic() - start)
    return row(run, workers=len(children), seconds=seconds, resumes=resumes(root / "run", arguments))


@drill
def sigterm_during_evaluation(root: Path) -> dict:
    arguments = tiny_arguments(shapes(root, images=60), root / "run", "train.checkpointer.period=1000")
    run = Run(root / "term.log", [*arguments, "train.eval_period=2", ENDLESS])
    run.until(lambda: "Start inference on" in run.text())
    run.kill(signal.SIGTERM)
    return row(run, resumes=resumes(root / "run", [*arguments, NO_TEST]))


@drill
def files_replaced_under_a_running_loader(root: Path) -> dict:
    data = shapes(root)
    more = [NO_TEST, "dataloader.train.num_workers=1", "train.checkpointer.period=2"]
    run = Run(root / "replaced.log", [*tiny_arguments(data, root / "run", *more), ENDLESS])
    run.until(lambda: lines(root / "run") > 4)
    images = sorted(Path(data["train"].rpartition(":")[2]).iterdir())
    images[0].write_bytes(images[0].read_bytes()[:200])
    run.until(lambda: f"skipped {images[0]}: " in run.text())
    before = lines(root / "run")
    run.until(lambda: lines(root / "run") > before + 4)
    for image in images:
        image.write_bytes(b"")
    run.wait()
    return row(run, went_on_with_one_broken=True)


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


def killed_process(root: Path, launcher: tuple[str, ...], victim: int, *more: str) -> dict:
    """A run of two processes of which one is killed, as the system does where memory runs out."""
    arguments = tiny_arguments(shapes(root), root / "run", NO_TEST, "train.checkpointer.period=2")
    program = [*launcher, "train_net.py", *arguments, *more, ENDLESS]
    with (root / "several.log").open("w") as log:
        process = start(*program, output=log)
        ranks: list[int] = []
        try:
            deadline = time.monotonic() + 300
            while lines(root / "run") < 4 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            ranks = [pid for pid in children(process.pid) if b"resource_tracker" not in command_line(pid)]
            # Both launchers start them in order.
            began = time.monotonic()
            os.kill(sorted(ranks)[victim], signal.SIGKILL)
            status = process.wait(timeout=120)
            seconds = round(time.monotonic() - began)
        finally:
            process.kill()
        left = [pid for pid in ranks if b"train_net.py" in command_line(pid)]
    text = (root / "several.log").read_text()
    errors = [line[:300] for line in text.splitlines() if line.startswith("error: ")]
    resumed = resumes(root / "run", arguments)
    return {"status": status, "errors": errors, "seconds": seconds, "left": len(left), "resumes": resumed}


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@drill
def rank_0_killed_under_torchrun(root: Path) -> dict:
    return killed_process(root, TORCHRUN, 0)


@drill
def rank_1_killed_under_torchrun(root: Path) -> dict:
    return killed_process(root, TORCHRUN, 1)


@drill
def process_killed_of_two_that_were_spawned(root: Path) -> dict:
    return killed_process(root, (), 1, "--num-gpus", "2")


@drill
def a_clock_that_jumps(root: Path) -> dict:
    """By years, several times a second: the run is that of a steady clock, to the bit."""
    library = root / "jumping_clock.so"
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    data = shapes(root)
    more = ["train.max_iter=40", "train.checkpointer.period=5", "dataloader.train.num_workers=1"]
    steady = Run(root / "steady.log", tiny_arguments(data, root / "steady", *more))
    assert steady.wait() == 0, steady.text()
    arguments = tiny_arguments(data, root / "jumping", *more)
    clock = {"LD_PRELOAD": str(library)}
    with (root / "first.log").open("w") as log:
        process = start("train_net.py", *arguments, output=log, environment=clock)
        deadline = time.monotonic() + 300
        while lines(root / "jumping") < 8 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
    with (root / "second.log").open("w") as log:
        status = start("train_net.py", *arguments, "--resume", output=log, environment=clock).wait(300)
    logs = [(root / name).read_text() for name in ("first.log", "second.log")]
    files = [root / name / "model_final.pth" for name in ("steady", "jumping")]
    weights = [torch.load(path, weights_only=True) for path in files]
    steps = [line["iteration"] for line in metrics_of(root / "jumping") if "total_loss" in line]
    # The stamps of the log show that it did jump.
    years = {stamp for text in logs for stamp in re.findall(r"^\[(\d\d/\d\d)", text, re.MULTILINE)}
    return {
        "status": status,
        "errors": [line for text in logs for line in text.splitlines() if line.startswith("error: ")],
        "traceback": any("Traceback" in text for text in logs),
        "dates": len(years),
        "twice": len(steps) - len(set(steps)),
        "equal": same(*weights),
    }


def table(rows: dict[str, dict]) -> str:
    """The rows as docs/reliability.md has them: the fault, the exit status, the message, what came after."""
    shown = ("status", "errors", "failed")
    lines = []
    for name, found in rows.items():
        after = ", ".join(f"{key}: {value}" for key, value in found.items() if key not in shown)
        message = "; ".join(found.get("errors", ())) or found.get("failed", "")
        lines.append((name.replace("_", " "), found.get("status"), message, after))
    return tabulate(lines, headers=("fault", "exit", "message", "afterwards"), tablefmt="pipe")


def main(folder: Path, names: list[str]) -> dict[str, dict]:
    rows = {}
    for name in names or DRILLS:
        print(name, file=sys.stderr, flush=True)
        root = folder / name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        try:
            rows[name] = DRILLS[name](root)
        except Exception as error:
            rows[name] = {"failed": f"{type(error).__name__}: {error}"[-1500:]}
        finally:
            Run.end_all()
        print(json.dumps(rows[name]), file=sys.stderr, flush=True)
    print(table(rows), file=sys.stderr)
    return rows


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
