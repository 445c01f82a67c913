"""benchmarks/real_pictures.py: its table from made-up results, its command lines without training."""

import json

import pytest
import real_pictures
from training_runs import ROOT, Settings

SETTINGS = Settings(5)


def results(box, mask):
    return {"bbox": {"AP": box, "AP50": box + 20}, "segm": {"AP": mask, "AP50": mask + 20}}


RUNS = {
    ("nuclei_masks", 0): results(40.0, 42.0),
    ("nuclei_masks", 1): results(41.0, 43.0),
    ("cascade", 0): results(43.5, 42.0),
    ("cascade", 1): results(43.0, 42.0),
    ("roi_pool", 0): results(40.0, 42.5),
    ("roi_pool", 1): results(40.0, 42.0),
}


@pytest.mark.parametrize("name", real_pictures.ROWS)
def test_rows_name_files_and_rows_that_exist(name):
    row = real_pictures.ROWS[name]
    assert (ROOT / row.config).is_file()
    assert (row.expected != 0) == bool(row.reference)
    if row.reference:
        assert real_pictures.ROWS[row.reference].data == row.data


def test_rows_by_hand(tmp_path):
    folder = SETTINGS.folder(tmp_path, "cascade", 1)
    folder.mkdir(parents=True)
    (folder / real_pictures.COST).write_text("240")
    names = ["nuclei_masks", "cascade", "roi_pool"]
    plain, cascade, roi_pool = real_pictures.table_rows(names, RUNS, SETTINGS, tmp_path)
    assert plain == ["nuclei_masks", "40.5 ± 0.7", "60.5 ± 0.7", "42.5 ± 0.7", "62.5 ± 0.7", *[""] * 5, "0.0"]
    # 43.5 - 40 and 43 - 41; seconds of one of two runs are known.
    assert cascade[7:] == ["nuclei_masks", "box +3.5, +2.0", "as expected", "2.0"]
    # 42.5 - 42 and 42 - 43, where less is expected.
    assert roi_pool[7:10] == ["nuclei_masks", "mask +0.5, -1.0", "either way"]


@pytest.mark.parametrize(
    ("differences", "expected", "verdict"),
    [
        ([], 1, ""),
        ([1.0], 0, ""),
        ([-1.0, -0.5], -1, "as expected"),
        ([-1.0, -0.5], 1, "the other way"),
        ([-1.0, 0.5], 1, "either way"),
    ],
)
def test_verdict(differences, expected, verdict):
    assert real_pictures.verdict(differences, expected) == verdict


def test_a_run_is_given_its_set_and_its_cost_is_kept(tmp_path, monkeypatch):
    calls = []

    def train(config, folder, settings, seed):
        calls.append((config, settings.iterations, settings.overrides))
        return 0

    monkeypatch.setattr(real_pictures, "train", train)
    monkeypatch.setattr(real_pictures, "_cpu_seconds", iter([10.0, 13.0, 20.0, 21.5]).__next__)
    training = real_pictures.Training({"coco_person": tmp_path / "set"})
    for _ in range(2):
        assert training("person_keypoints_scratch", tmp_path / "run", Settings(5, ("a=1",)), 0) == 0
    config, iterations, overrides = calls[0]
    assert (config, iterations) == (real_pictures.KEYPOINTS, 10)
    where = tmp_path / "set"
    assert overrides == (
        f"dataloader.train.dataset.names=coco:{where}/train.json:{where}/images",
        f"dataloader.test.dataset.names=coco:{where}/val.json:{where}/images",
        *real_pictures.SCRATCH,
        "a=1",
    )
    assert json.loads((tmp_path / "run" / real_pictures.COST).read_text()) == pytest.approx(4.5)


def test_a_set_that_is_needed_must_be_given(tmp_path, capsys):
    assert real_pictures.main(["--only", "person_masks", "--nuclei", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "Give --coco-person.\n"
