"""benchmarks/ablations.py: its table from made-up results, and what it trains when it is started again."""

import math

import ablations
import pytest
import real_pictures
from training_runs import Settings

from mrcnn_plugin import model_zoo

SIGMOID, SOFTMAX = ablations.configs_of(["softmax"])


def ap(*values):
    return dict(zip(ablations.METRICS, values))


def test_every_config_exists_and_every_ablation_config_is_used():
    used = set(ablations.configs_of(ablations.ABLATIONS))
    known = model_zoo.list_configs()
    assert used <= set(known)
    # Those that fine-tune are benchmarks/real_pictures.py's.
    used |= {row.config.removeprefix("configs/") for row in real_pictures.ROWS.values()}
    assert {name for name in known if name.startswith("Ablations/")} <= used


def test_each_metric_is_one_that_the_paper_gives_for_the_reference():
    for ablation in ablations.ABLATIONS.values():
        for variant in ablation.variants:
            assert set(variant.paper) == set(ablation.variants[0].paper) <= set(ablations.TASKS)
            assert all(len(numbers) == 3 and numbers[0] is not None for numbers in variant.paper.values())


def test_rows_by_hand():
    runs = {
        (SIGMOID, 0): {"segm": ap(40.0, 60.0, 45.0)},
        (SIGMOID, 1): {"segm": ap(42.0, 62.0, math.nan)},
        (SOFTMAX, 0): {"segm": ap(37.0, 59.0, 44.0)},
        (SOFTMAX, 1): {"segm": ap(37.0, 59.0, 44.0)},
    }
    first, second = ablations.table_rows(["softmax"], runs)
    # Standard deviation of 40 and 42: sqrt(2).
    assert first[2:] == [
        "independent (sigmoid)",
        "30.3 / 51.2 / 31.5",
        "41.0 ± 1.4 / 61.0 ± 1.4 / –",
        "",
        "",
        "reference",
    ]
    # Differences of the seeds: -3 and -5.
    assert second[2:] == [
        "multinomial (softmax)",
        "24.8 / 44.1 / 25.1",
        "37.0 ± 0.0 / 59.0 ± 0.0 / 44.0 ± 0.0",
        "-5.5",
        "-4.0 ± 1.4",
        "agrees (2 of 2 seeds)",
    ]


def test_rows_of_what_was_not_run():
    runs = {(SIGMOID, 0): {"segm": ap(40.0, 60.0, 45.0)}, (SOFTMAX, 1): {"segm": ap(41.0, 60.0, 45.0)}}
    first, second = ablations.table_rows(["softmax"], runs)
    assert first[4] == "40.0 / 60.0 / 45.0"
    # No seed has both.
    assert second[4:] == ["41.0 / 60.0 / 45.0", "-5.5", "", "no result"]
    # An AP that is not finite, as where nothing was found, is no difference.
    nothing = {
        (SIGMOID, 0): {"segm": ap(40.0, 60.0, 45.0)},
        (SOFTMAX, 0): {"segm": ap(math.nan, math.nan, math.nan)},
    }
    assert ablations.table_rows(["softmax"], nothing)[1][4:] == ["– / – / –", "-5.5", "", "no result"]
    assert ablations.table_rows(["agnostic"], {})[1][3:] == ["29.7 / – / –", "", "-0.6", "", "no result"]


def test_boxes_and_masks_are_rows_of_their_own():
    rows = ablations.table_rows(["stride32"], {})
    assert [(row[1], row[2]) for row in rows] == [
        ("mask", "RoIAlign"),
        ("mask", "RoIPool"),
        ("box", "RoIAlign"),
        ("box", "RoIPool"),
    ]


@pytest.mark.parametrize(
    ("paper", "ours", "expected"),
    [
        (-5.5, [-4.0, -0.1], "agrees (2 of 2 seeds)"),
        (1.8, [0.5], "agrees (1 of 1 seeds)"),
        (-5.5, [3.0, 0.1], "disagrees (0 of 2 seeds)"),
        (-5.5, [-1.0, 4.0, 2.0], "unclear (1 of 3 seeds)"),
        (0.1, [9.0, 9.0], "tie in the paper"),
        (-5.5, [-0.4], "tie in ours"),
        (-5.5, [-3.0, 3.1], "tie in ours"),
        (-5.5, [], "no result"),
    ],
)
def test_verdict(paper, ours, expected):
    assert ablations.verdict(paper, ours) == expected


def test_the_report_is_written(tmp_path):
    runs = {
        (SIGMOID, 0): {"segm": ap(40.0, 60.0, 45.0)},
        (SOFTMAX, 0): {"segm": ap(37.0, 59.0, 44.0)},
    }
    ablations.write_report(["softmax"], runs, Settings(5, ("a.b=1",)), tmp_path / "out")
    text = (tmp_path / "out" / "ablations.md").read_text()
    assert "5 iterations, `a.b=1`, 1 seed." in text
    assert "arXiv 1703.06870" in text
    (line,) = [line for line in text.splitlines() if "multinomial" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")][5:] == [
        "-5.5",
        "-3.0",
        "agrees (1 of 1 seeds)",
    ]
    assert (tmp_path / "out" / "ablations.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = ablations.figure(["softmax"], runs).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([-5.5, -3.0])
