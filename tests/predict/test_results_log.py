"""The log of results: what a killed process leaves, and what is merged of several."""

from __future__ import annotations

import json

import pytest

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.predict.inputs import Picture
from mrcnn_plugin.predict.results_log import ResultsLog

SETTINGS = {"--tile": None, "--score-threshold": 0.5}


def entry(name: str, *scores: float, overlay: str | None = None):
    return name, overlay, [{"image_id": 99, "score": score} for score in scores]


def written(folder, *entries, rank=0, settings=SETTINGS) -> ResultsLog:
    log = ResultsLog(str(folder), settings, rank=rank)
    log.open()
    for each in entries:
        log.append([each])
    log.close()
    return log


def merged(folder, *names: str) -> list[dict]:
    pictures = [Picture(name, number, None) for number, name in enumerate(names, 1)]
    log = ResultsLog(str(folder), SETTINGS)
    count, images = log.merge(pictures, str(folder / "predictions.json"))
    results = json.loads((folder / "predictions.json").read_text())
    assert count == len(results)
    assert images == len({name for name in names if log.has(name, None)})
    return results


def test_processes_are_merged_in_the_order_of_the_pictures(tmp_path):
    written(tmp_path, entry("c", 0.3), entry("a", 0.1, 0.2))
    written(tmp_path, entry("b"), entry("d", 0.4), rank=1)
    written(tmp_path, entry("e", 0.5), rank=10)
    results = merged(tmp_path, "a", "b", "c", "d", "absent", "e")
    assert [(r["image_id"], r["score"]) for r in results] == [
        (1, 0.1),
        (1, 0.2),
        (3, 0.3),
        (4, 0.4),
        (6, 0.5),
    ]
    # As json.dumps writes a list.
    assert (tmp_path / "predictions.json").read_text() == json.dumps(results)


@pytest.mark.parametrize("lost", [1, 2, 30, 59])
def test_a_half_written_line_is_dropped(tmp_path, lost):
    """Whatever byte a killed process stopped at: the lines before it hold, and the next are added."""
    written(tmp_path, entry("a", 0.1), entry("b", 0.2))
    path = tmp_path / "predictions.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    log = ResultsLog(str(tmp_path), SETTINGS)
    log.read()
    assert log.has("a", None)
    assert not log.has("b", None)
    log.open()
    log.append([entry("b", 0.2)])
    log.close()
    assert path.read_bytes() == content
    assert [r["score"] for r in merged(tmp_path, "a", "b")] == [0.1, 0.2]


def test_a_half_written_header_is_written_again(tmp_path):
    (tmp_path / "predictions.jsonl").write_bytes(b'{"settings": {"--ti')
    log = written(tmp_path, entry("a", 0.1))
    log.read()
    assert log.has("a", None)


def test_the_later_of_two_lines_counts(tmp_path):
    written(tmp_path, entry("a", 0.1))
    written(tmp_path, entry("a", 0.2))
    assert [r["score"] for r in merged(tmp_path, "a")] == [0.2]


def test_an_overlay_that_is_missing_is_to_be_made(tmp_path):
    overlay = str(tmp_path / "a.png")
    log = written(tmp_path, entry("a", overlay=overlay))
    log.read()
    assert log.has("a", None)
    assert not log.has("a", overlay)
    (tmp_path / "a.png").touch()
    (tmp_path / "a_2.png").touch()
    assert log.has("a", overlay)
    assert not log.has("a", str(tmp_path / "a_2.png")), "the overlay of another picture"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "--tile": 512}, "was predicted with --tile = None, now it is 512"),
        ({"--tile": None}, "was predicted with --score-threshold = 0.5, now it is None"),
        ({**SETTINGS, "--new": 1}, "was predicted with --new = None, now it is 1"),
    ],
)
def test_other_settings_are_refused(tmp_path, settings, message):
    written(tmp_path, entry("a", 0.1))
    with pytest.raises(ConfigError, match=message):
        ResultsLog(str(tmp_path), settings).read()


@pytest.mark.parametrize("content", ["[]\n", '{"a": 1}\n', "text\n", '{"settings": 3}\n'])
def test_another_file_of_that_name_is_refused(tmp_path, content):
    (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=r"predictions.jsonl is not a log of predict.py .*; start without"):
        ResultsLog(str(tmp_path), SETTINGS).read()


def test_clear_removes_its_own_files_only(tmp_path):
    written(tmp_path, rank=0)
    written(tmp_path, rank=3)
    for name in ("predictions.old.jsonl", "predictions.json", "other.jsonl"):
        (tmp_path / name).touch()
    ResultsLog(str(tmp_path), SETTINGS).clear()
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions.old.jsonl",
        "predictions.json",
        "other.jsonl",
    }
