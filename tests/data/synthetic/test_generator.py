"""Sets on disk: deterministic, disjoint, reused, redrawn, safe under concurrent starts."""

import hashlib
import json
import multiprocessing
import re
from pathlib import Path

import pytest

from mrcnn_plugin.data.synthetic import generator, shapes
from mrcnn_plugin.data.synthetic.generator import SetParameters, ensure_set, recorded, set_paths


def parameters(kind="shapes", split="train", **changes):
    return SetParameters(kind, split, **({"images": 5, "size": 64} | changes))


def digests(paths):
    files = [*sorted(paths.image_root.iterdir()), paths.json_file]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def mtimes(paths):
    return [path.stat().st_mtime_ns for path in [*sorted(paths.image_root.iterdir()), paths.json_file]]


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_same_seed_writes_the_same_bytes(tmp_path, kind):
    first = ensure_set(tmp_path / "a", kind, "train", parameters(kind))
    second = ensure_set(tmp_path / "b", kind, "train", parameters(kind))
    other = ensure_set(tmp_path / "c", kind, "train", parameters(kind, seed=1))
    assert digests(first) == digests(second)
    assert not set(digests(first)) & set(digests(other))


def test_splits_are_disjoint(tmp_path):
    seen = set()
    for kind in generator.KINDS:
        for split in generator.SPLITS:
            images = digests(ensure_set(tmp_path, kind, split, parameters(kind, split, images=20)))[:-1]
            assert len(set(images)) == 20
            assert not seen & set(images)
            seen |= set(images)


def test_a_longer_set_begins_with_the_shorter(tmp_path):
    short = ensure_set(tmp_path / "a", "shapes", "val", parameters(split="val"))
    long = ensure_set(tmp_path / "b", "shapes", "val", parameters(split="val", images=7))
    assert digests(long)[:5] == digests(short)[:5]


def test_layout_and_json(tmp_path):
    paths = ensure_set(tmp_path, "keypoints", "val", parameters("keypoints", "val"))
    assert paths.json_file == tmp_path / "shapes_keypoints/annotations/person_keypoints_val.json"
    assert sorted(p.name for p in paths.image_root.iterdir()) == [f"00000{i}.jpg" for i in range(5)]
    dataset = json.loads(paths.json_file.read_text())
    assert next(iter(dataset)) == "info"
    assert [image["id"] for image in dataset["images"]] == [1, 2, 3, 4, 5]
    assert [a["id"] for a in dataset["annotations"]] == list(range(1, len(dataset["annotations"]) + 1))
    assert {a["image_id"] for a in dataset["annotations"]} <= {1, 2, 3, 4, 5}
    (category,) = dataset["categories"]
    assert category["name"] == "figure"
    assert len(category["keypoints"]) == 17
    assert all(1 <= end <= 17 for limb in category["skeleton"] for end in limb)


def test_second_start_reuses_the_set(tmp_path):
    before = mtimes(ensure_set(tmp_path, "shapes", "train", parameters()))
    assert mtimes(ensure_set(tmp_path, "shapes", "train", parameters())) == before
    # Who asks for no parameters takes the set that is there, however it was drawn.
    assert mtimes(ensure_set(tmp_path, "shapes", "train")) == before


def test_changed_parameters_redraw(tmp_path):
    paths = ensure_set(tmp_path, "shapes", "train", parameters(images=6))
    ensure_set(tmp_path, "shapes", "train", parameters(images=4, size=96))
    assert len(list(paths.image_root.iterdir())) == 4
    assert recorded(paths)["parameters"]["size"] == 96


def test_new_generator_version_redraws(tmp_path, monkeypatch):
    before = mtimes(ensure_set(tmp_path, "shapes", "train", parameters()))
    monkeypatch.setattr(generator, "VERSION", generator.VERSION + 1)
    assert mtimes(ensure_set(tmp_path, "shapes", "train", parameters())) != before


@pytest.mark.parametrize("damage", ["image", "json", "folder"])
def test_incomplete_sets_are_redrawn(tmp_path, damage):
    paths = ensure_set(tmp_path, "shapes", "train", parameters())
    before = digests(paths)
    if damage == "image":
        (paths.image_root / "000003.jpg").unlink()
    elif damage == "json":
        paths.json_file.unlink()
        (paths.image_root / "000003.jpg.7.part").write_bytes(b"half")
    else:
        for image in paths.image_root.iterdir():
            image.unlink()
        paths.image_root.rmdir()
    ensure_set(tmp_path, "shapes", "train", parameters())
    assert digests(paths) == before


def test_interrupted_drawing_leaves_no_annotations(tmp_path, monkeypatch):
    def fail_at_the_third(kind, size, seed):
        if seed.entropy[-1] == 2:
            raise KeyboardInterrupt
        return shapes.draw_sample(kind, size, seed)

    monkeypatch.setattr(generator, "draw_sample", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        ensure_set(tmp_path, "shapes", "train", parameters(images=300))
    paths = set_paths(tmp_path, "shapes", "train")
    assert not paths.json_file.exists()
    assert len(list(paths.image_root.iterdir())) < 200
    monkeypatch.undo()
    whole = digests(ensure_set(tmp_path, "shapes", "train", parameters()))
    assert whole == digests(ensure_set(tmp_path / "fresh", "shapes", "train", parameters()))


@pytest.mark.parametrize(
    "content", ["{}", '{"info": {"description": "COCO 2017"}}', '{"info": {"a', "[1, 2]"]
)
def test_files_of_others_are_kept(tmp_path, content):
    paths = set_paths(tmp_path, "shapes", "train")
    paths.json_file.parent.mkdir(parents=True)
    paths.json_file.write_text(content)
    with pytest.raises(FileExistsError, match=re.escape(f"{paths.json_file}: not written by")):
        ensure_set(tmp_path, "shapes", "train", parameters())
    assert paths.json_file.read_text() == content


def draw_in_process(root, barrier, queue):
    barrier.wait()
    paths = ensure_set(root, "shapes", "train", parameters(images=12))
    queue.put((digests(paths), mtimes(paths)))


def test_concurrent_starts_draw_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=draw_in_process, args=(tmp_path / "shared", barrier, queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert results[0] == results[1] == results[2]
    assert results[0][0] == digests(ensure_set(tmp_path / "alone", "shapes", "train", parameters(images=12)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cats", "split": "train"}, "kind must be one of shapes, keypoints, got 'cats'"),
        ({"kind": "shapes", "split": "test"}, "split must be one of train, val, got 'test'"),
        ({"kind": "shapes", "split": "val", "images": 0}, "images must be between 1 and 999999, got 0"),
        ({"kind": "shapes", "split": "val", "size": 9}, "size must be between 32 and 4096, got 9"),
        ({"kind": "shapes", "split": "val", "seed": -1}, "seed must be between 0"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        SetParameters(**arguments)


def test_default_numbers_of_images():
    assert (SetParameters("shapes", "train").images, SetParameters("shapes", "val").images) == (2000, 300)


def test_command_line(tmp_path, capsys):
    arguments = [
        "--root",
        str(tmp_path),
        "--kind",
        "shapes",
        "--splits",
        "val",
        "--images",
        "3",
        "--size",
        "64",
    ]
    assert shapes.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 images: ")
    assert str(set_paths(tmp_path, "shapes", "val").json_file) in out
    assert not Path(tmp_path, "shapes_keypoints").exists()
    assert not Path(tmp_path, "shapes", "train").exists()


def test_command_line_reports_errors_in_one_line(tmp_path, capsys):
    assert shapes.main(["--root", str(tmp_path), "--size", "8"]) == 1
    assert capsys.readouterr().err == "error: size must be between 32 and 4096, got 8\n"


def test_command_line_help(capsys):
    with pytest.raises(SystemExit) as stop:
        shapes.main(["--help"])
    assert stop.value.code == 0
    assert "2000 for train, 300 for val" in re.sub(r"\s+", " ", capsys.readouterr().out)
