"""report.html as text: what it holds, and what it must not."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.detections import HEIGHT, WIDTH, coco_of, dataset_of, detection, random_case
from PIL import Image

from mrcnn_plugin.errors import DatasetError
from mrcnn_plugin.evaluation.coco_evaluation import evaluate_coco
from mrcnn_plugin.reporting.html import page
from mrcnn_plugin.reporting.html.command_line import main
from mrcnn_plugin.reporting.html.page import analyse, render
from mrcnn_plugin.reporting.html.source import Source, read_annotations, read_results


def save_images(dataset: dict, folder) -> str:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for image in dataset["images"]:
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    return str(folder)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    dataset, results = random_case(0)
    return dataset, results, save_images(dataset, tmp_path_factory.mktemp("report") / "images")


@pytest.fixture(scope="module")
def html(case):
    dataset, results, images = case
    return render(
        Source(
            "The <title>", coco_of(dataset), results, images, facts=[("of", "a & b")], config="key: <value>"
        )
    )


def charts_of(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="charts">(.*?)</script>', html, re.DOTALL)[1]
    )


def without_plotly(html: str) -> str:
    """The page less plotly.js, which is one line of megabytes or a few."""
    return re.sub(r"<script>(?:(?!</script>).){1000000,}</script>", "", html, flags=re.DOTALL)


def test_every_chart_has_a_place_and_every_place_a_chart(html):
    places = re.findall(r'data-chart="([\w-]+)"', html)
    assert len(places) == len(set(places))
    assert set(places) == set(charts_of(html))
    kinds = ("precision-recall", "class-curves", "thresholds", "calibration", "errors", "confusion", "groups")
    assert set(places) == {f"{task}-{kind}" for task in ("bbox", "segm", "keypoints") for kind in kinds}


def test_the_table_has_cocos_ap_and_the_best_threshold(case, html):
    dataset, results, _ = case
    stats = evaluate_coco(coco_of(dataset), results, "bbox", faster=False).stats
    panel = html[
        html.index('data-task="bbox" hidden' if 'data-task="bbox" hidden' in html else 'class="panel"') :
    ]
    mean = re.findall(r"<td>(.*?)</td>", re.search(r'<tr class="mean">(.*?)</tr>', panel, re.DOTALL)[1])
    assert mean[2:5] == [f"{100 * value:.1f}" for value in stats[:3]]
    report = analyse(Source("", coco_of(dataset), results), "bbox")
    cat = report.rows[0]
    assert f"<td>{cat['threshold']:.2f}</td><td>{cat['F1']:.1f}</td>" in panel
    assert cat["threshold"] in report.matches.score


def test_no_address_is_loaded(html):
    # plotly.js itself knows addresses of maps, for charts that are not used here.
    rest = without_plotly(html)
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", rest)
    assert "@import" not in rest
    assert "url(" not in rest
    assert html.count("plotly.js v") == 1
    assert len(rest) < 3_000_000 < len(html) < 10_000_000


def test_text_of_others_is_escaped(case):
    dataset, results = random_case(1, images=3)
    dataset["categories"][0]["name"] = "</script><script>alert(1)</script>"
    source = Source("The <title>", coco_of(dataset), results, config="<b>bold</b>", notes=["<i>"])
    html = without_plotly(render(source))
    for raw in ("<script>alert", "The <title>", "<b>bold", "<i>"):
        assert raw not in html
    assert "&lt;b&gt;bold" in html
    names = [trace["name"] for trace in charts_of(html)["bbox-class-curves"]["data"]]
    assert "</script><script>alert(1)</script>" in names


def test_curves_of_the_training(case):
    iterations = range(0, 5000, 2)
    metrics = {
        "total_loss": {i: 3.0 / (1 + i) for i in iterations},
        "loss_cls": {i: 2.0 / (1 + i) for i in iterations},
        "validation/loss_cls": {2000: 0.5, 4000: 0.4},
        "bbox/AP": {2000: 10.0, 4000: 20.0},
        "lr": dict.fromkeys(iterations, 0.1),
        "empty_loss": {},
    }
    charts = charts_of(render(Source("", metrics=metrics)))
    assert set(charts) == {"losses", "aps", "rate"}
    losses = {trace["name"]: trace for trace in charts["losses"]["data"]}
    assert set(losses) == {"total", "cls", "validation: cls"}
    assert losses["validation: cls"]["line"]["dash"] == "dot"
    assert losses["validation: cls"]["line"]["color"] == losses["cls"]["line"]["color"]
    assert charts["losses"]["layout"]["yaxis"]["type"] == "log"


def test_what_is_missing_is_said():
    dataset = dataset_of([[(0, (10, 10, 20, 20))], [(1, (10, 10, 20, 20))]])
    del dataset["annotations"][0]["segmentation"]
    results = [detection(0, 0, (10, 10, 20, 20), 0.5)]
    source = Source("", coco_of(dataset), results, scores={"bbox": {"AP": 12.0}})
    assert source.tasks == ["bbox"]
    html = render(source)
    assert "No analysis of task segm: 1 of 2 annotations have no &#34;segmentation&#34;." in html
    assert "The evaluator found box AP 12.0, these results have 50.0" in html
    keypoints = [results[0] | {"keypoints": [1.0] * 12}]
    assert "OKS sigmas" in Source("", coco_of(dataset), keypoints).possible_tasks()["keypoints"]


def test_nothing_found_and_nothing_there(case):
    dataset, _, images = case
    wrong = [detection(0, 0, (0, 0, 5, 5), 0.9), detection(1, 2, (0, 0, 5, 5), 0.2)]
    assert 'class="panel"' in render(Source("", coco_of(dataset), wrong, images))
    nothing = render(
        Source("Empty", coco_of(dataset), [], images, scores={"segm": {"AP": 1.25, "AP-cat": 3.0}})
    )
    assert 'class="panel"' not in nothing
    assert "<td>segm</td><td>1.2</td>" in nothing
    # Scores of further evaluations, such as that of averaged weights, stand beside an analysis.
    averaged = {"bbox": {"AP": 0.0}, "bbox_EMA": {"AP": 7.0}}
    assert "<td>bbox_EMA</td><td>7.0</td>" in render(Source("", coco_of(dataset), wrong, scores=averaged))
    empty = dataset_of([[], []])
    assert 'class="panel"' in render(Source("", coco_of(empty), [detection(0, 0, (0, 0, 5, 5), 0.9)]))


@pytest.fixture
def files(case, tmp_path):
    dataset, results, images = case
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path, images


def test_command_line(files, capsys, monkeypatch):
    folder, images = files
    monkeypatch.chdir(folder)
    assert main(["results.json", "truth.json", "--images", images]) == 0
    assert "Report: report.html (" in capsys.readouterr().out
    html = (folder / "report.html").read_text()
    assert "Detections on truth.json" in html
    assert "data:image/jpeg;base64," in html
    assert "data-sizes" in charts_of(html)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json", "truth.json"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "results.json: cannot be read (No such file or directory)"),
        ("[{", "results.json: not JSON"),
        ('{"a": 1}', "results.json: expected COCO's list of results, got a dict"),
        ('[{"image_id": 1, "category_id": 10}]', 'results[0] has no "score"; add it'),
        (
            '[{"image_id": 99, "category_id": 10, "score": 1}]',
            "results[0] is of image 99, which the annotations do not",
        ),
        ('[{"image_id": 1, "category_id": 0, "score": 1}]', "must have the data set's category ids"),
    ],
)
def test_errors_are_one_line(files, capsys, results, message):
    folder, _ = files
    path = folder / "results.json"
    path.unlink() if results is None else path.write_text(results)
    output = folder / "report.html"
    assert main([str(path), str(folder / "truth.json"), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not output.exists()


def test_annotations_without_area_and_predictions_of_predict_py(tmp_path):
    dataset = dataset_of([[(0, (10, 10, 20, 20))]])
    del dataset["annotations"][0]["area"], dataset["annotations"][0]["iscrowd"]
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    truth = read_annotations(tmp_path / "truth.json")
    assert truth.dataset["annotations"][0]["area"] == 400
    found = {"annotations": [detection(0, 0, (10, 10, 20, 20), 0.5), detection(0, 5, (10, 10, 20, 20), 0.5)]}
    (tmp_path / "predictions.json").write_text(json.dumps(found))
    assert read_results(tmp_path / "predictions.json", truth) == (found["annotations"][:1], 1)
    source = Source("")
    source.read_detections(tmp_path / "predictions.json", tmp_path / "truth.json")
    assert source.notes == [
        "1 of 2 detections are left out: they are of categories that the annotations do not have."
    ]
    with pytest.raises(DatasetError, match="expected COCO annotations"):
        read_annotations(tmp_path / "predictions.json")


def test_scores_of_several_test_sets():
    rows = page._score_rows({"a": {"bbox": {"AP": 1.0, "AP-cat": 2.0}}, "b": {"bbox": {"AP": 3.0}}})
    assert rows == [("a bbox", {"AP": 1.0}), ("b bbox", {"AP": 3.0})]
