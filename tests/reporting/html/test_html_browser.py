"""report.html in a real browser: every chart is drawn, its switches work, and the console stays empty."""

from __future__ import annotations

import html
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers.detections import HEIGHT, WIDTH, coco_of, random_case
from PIL import Image

from mrcnn_plugin.reporting.html.page import render
from mrcnn_plugin.reporting.html.source import Source

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Any request would fail, and a failed request is a line of the console.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    *("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"),
)
# Uses the page as a person does, and leaves what it has seen in attributes of the root.
VISITOR = """
<script>
window.addEventListener("load", () => {
  const seen = document.documentElement.dataset, all = selector => [...document.querySelectorAll(selector)];
  const panels = () => all(".panel").filter(panel => !panel.hidden).map(panel => panel.dataset.task).join();
  seen.first = panels();
  for (const button of all(".tabs button")) button.click();
  seen.last = panels();
  const table = document.querySelector(".panel:not([hidden]) table.sortable");
  const column = number => [...table.tBodies[0].rows].map(row => row.cells[number].textContent).join();
  table.tHead.rows[0].cells[0].click();
  seen.byName = column(0);
  table.tHead.rows[0].cells[1].click();
  seen.byObjects = column(1);
  table.tHead.rows[0].cells[1].click();
  seen.byObjectsAgain = column(1);
  const shown = name => all("#pictures ." + name).some(shape => getComputedStyle(shape).display !== "none");
  seen.masks = shown("mask");
  document.querySelector("input[name=masks]").click();
  seen.masksOff = shown("mask");
  seen.boxes = shown("box");
  document.querySelector("input[name=boxes]").click();
  seen.boxesOn = shown("box");
});
</script>
"""


def visit(page: str, folder) -> tuple[dict[str, str], str, list[str]]:
    """Opens the page: attributes of its root, the whole DOM, lines of the console."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    root = re.search(r"<html([^>]*)>", done.stdout)
    assert root, done.stderr[-2000:]
    seen = {name: html.unescape(value) for name, value in re.findall(r'data-([\w-]+)="([^"]*)"', root[1])}
    return seen, done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    images = tmp_path_factory.mktemp("images")
    dataset, results = random_case(0)
    for image in dataset["images"]:
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)).save(images / image["file_name"])
    metrics = {"total_loss": {1: 2.0, 2: 1.0}, "lr": {1: 0.1, 2: 0.1}, "bbox/AP": {2: 10.0}}
    return render(Source("A run", coco_of(dataset), results, str(images), metrics=metrics))


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_in_chromium(page, tmp_path):
    seen, dom, console = visit(page.replace("</body>", VISITOR + "</body>"), tmp_path)
    assert console == []
    assert "errors" not in seen
    places = len(re.findall(r'class="chart[^"]*" data-chart="[\w-]+"', dom))
    assert seen["charts"] == str(places) == str(3 + 3 * 7)
    assert (seen["first"], seen["last"]) == ("bbox", "keypoints")
    assert seen["by-name"] == "mean,cat,cow,dog"
    many, few, none = (int(number) for number in seen["by-objects"].split(",")[1:])
    assert many > few > none == 0
    assert seen["by-objects-again"].split(",")[1:] == [str(none), str(few), str(many)]
    assert (seen["masks"], seen["masks-off"]) == ("true", "false")
    assert (seen["boxes"], seen["boxes-on"]) == ("false", "true")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_an_error_of_the_page_is_seen(page, tmp_path):
    """The test above would notice one."""
    broken = page.replace("const drawn = new Set();", "document.missing.call();")
    assert broken != page
    seen, dom, console = visit(broken, tmp_path)
    assert seen["errors"] == "1"
    assert console
    assert "This page met an error: " in dom
