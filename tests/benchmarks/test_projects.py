"""benchmarks/projects.py: its tables from made-up results."""

import math

import pytest
from training_runs import Settings

import projects

CASCADE = projects.PROJECTS["cascade_mask_rcnn"].config


def results(box, box75, mask):
    masks = {"AP": mask, "AP75": mask, "APs": mask, "APm": mask, "APl": math.nan}
    return {"bbox": {"AP": box, "AP75": box75}, "segm": masks}


RUNS = {
    (projects.PLAIN, 0): results(50.0, 55.0, 40.0),
    (projects.PLAIN, 1): results(52.0, 57.0, 42.0),
    (CASCADE, 0): results(50.0, 58.0, 41.0),
    (CASCADE, 1): results(50.0, 56.5, 41.0),
}


def test_rows_by_hand():
    plain, cascade = projects.table_rows(["cascade_mask_rcnn"], RUNS)
    assert plain == ["plain", "51.0 ± 1.4", "56.0 ± 1.4", *["41.0 ± 1.4"] * 4, "–"]
    assert cascade[:3] == ["cascade_mask_rcnn", "50.0 ± 0.0", "57.2 ± 1.1"]


def test_claims_by_hand():
    (row,) = projects.claim_rows(["cascade_mask_rcnn"], RUNS)
    # 58 - 55 and 56.5 - 57.
    assert row == ["cascade_mask_rcnn", "box AP75", "+3.0, -0.5", "ahead (better in 1 of 2 seeds)"]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], "no result"),
        ([1.0, 0.5], "ahead (better in 2 of 2 seeds)"),
        ([-1.0, 0.5], "behind (better in 1 of 2 seeds)"),
    ],
)
def test_verdict(differences, expected):
    assert projects.verdict(differences) == expected


def test_what_was_not_run_is_empty(tmp_path):
    projects.write_report(["swin_mask_rcnn"], {}, Settings(5), tmp_path / "out")
    text = (tmp_path / "out" / "projects.md").read_text()
    (line,) = [line for line in text.splitlines() if "swin" in line]
    assert {cell.strip() for cell in line.strip("|").split("|")} == {"swin_mask_rcnn", ""}
