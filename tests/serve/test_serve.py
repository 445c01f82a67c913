"""The page in the browser: what it shows, that it needs no network, and what it refuses."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.error
import urllib.request
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from helpers.browser import CHROMIUM, browser
from helpers.tiny_predictor import BrightSpots
from PIL import Image

from mrcnn_plugin.data.images import unreadable
from mrcnn_plugin.errors import ConfigError, ImageError
from mrcnn_plugin.serve import argument_parser, main

GRADIO = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio")


class Spots(BrightSpots):
    """Bright spots are instances, the wider of which are the surer ones."""

    threshold = 0.05

    def predict(self, path: str) -> tuple[Instances, np.ndarray]:
        why = unreadable(path)
        if why:
            raise ImageError(why)
        image = Image.open(path).convert("RGB")
        (instances,) = self.detect([self.model_input(image)])
        boxes = instances.pred_boxes.tensor
        instances.scores = (boxes[:, 2] - boxes[:, 0]) / 100
        return instances[torch.argsort(instances.scores, descending=True)], np.asarray(image)


@pytest.fixture
def picture(tmp_path):
    """Three spots, 20, 40 and 80 pixels wide."""
    pixels = np.zeros((160, 240, 3), np.uint8)
    for top, width in ((10, 20), (50, 40), (100, 80)):
        pixels[top : top + 20, 30 : 30 + width] = 255
    Image.fromarray(pixels).save(tmp_path / "42.png")
    return tmp_path / "42.png"


@GRADIO
def test_what_is_shown_at_a_threshold(picture):
    from mrcnn_plugin.serve.page import detect, view

    found = detect(Spots(), str(picture))
    shown = view(Spots(), found, 0.3)
    assert shown.summary == "42.png, 240 x 160: 2 instances with a score of at least 0.30"
    assert shown.rows == (("spot", 0.8, 30, 100, 80, 20), ("spot", 0.4, 30, 50, 40, 20))
    results = json.loads(shown.results)
    assert [(r["image_id"], r["file_name"], r["score"]) for r in results] == [
        (42, "42.png", pytest.approx(0.8)),
        (42, "42.png", pytest.approx(0.4)),
    ]
    assert all(r["segmentation"]["size"] == [160, 240] for r in results)
    assert (shown.overlay.max(-1) > 0).sum() > (found.image.max(-1) > 0).sum(), "boxes and labels are drawn"
    assert view(Spots(), found, 0.9).summary.startswith("42.png, 240 x 160: no instances")
    assert found.image.max(-1).sum() == 255 * (20 + 40 + 80) * 20, "the picture itself is not drawn into"


SUMMARY = "document.querySelector('#summary textarea').value"
# What a person does: types a number, and leaves the field.
SLIDE = """
(field => {
  field.value = "0.5";
  for (const name of ["input", "change", "blur"]) field.dispatchEvent(new Event(name, {bubbles: true}));
})(document.querySelector("#threshold input[type=number]"))
"""
DRAWN = "(i => i && i.complete && i.naturalWidth)(document.querySelector('#overlay img'))"


@GRADIO
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_in_chromium(picture, tmp_path):
    from mrcnn_plugin.serve.page import page_of
    from mrcnn_plugin.serve.server import serve

    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:60])
    local = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with (
        serve(page_of(Spots(), "spots", 0.3), "127.0.0.1", 0) as address,
        browser(tmp_path / "profile", local) as tab,
    ):
        tab.open(address)
        upload = "#upload input[type=file]"
        tab.wait_for(f"document.querySelector('{upload}') !== null")
        tab.choose_file(upload, picture)
        tab.wait_for(f"{SUMMARY}.includes('2 instances')")
        assert tab.wait_for(DRAWN) == 600, "enlarged to 400 pixels at the shorter side"
        first = tab.run("document.querySelector('#overlay img').src")
        tab.run(SLIDE)
        tab.wait_for(f"{SUMMARY}.includes(': 1 instance ')")
        tab.wait_for(f"document.querySelector('#overlay img').src !== '{first}'")
        assert tab.wait_for("document.querySelector('#instances').innerText.includes('0.8')")
        tab.run("[...document.querySelectorAll('button')].find(b => /COCO/.test(b.innerText)).click()")
        tab.wait_for("/\"score\": 0.8/.test(document.querySelector('#results').innerText)")
        # The same page, another picture, which is none.
        tab.open(address)
        tab.wait_for(f"document.querySelector('{upload}') !== null")
        tab.choose_file(upload, broken)
        tab.wait_for(f"{SUMMARY}.startsWith('broken.png cannot be read: ')")
        assert not tab.run(DRAWN)
        assert tab.console == []
        hosts = {url.split("/")[2] for url in tab.requested if url.startswith(("http", "ws"))}
        assert hosts == {address.split("/")[2]}


def start(finished_run, *more):
    """A thread that runs main(), and what ends it."""
    stop = threading.Event()
    args = argument_parser().parse_args(["--run", str(finished_run), *map(str, more)])
    thread = threading.Thread(target=main, args=(args, stop), daemon=True)
    thread.start()
    return thread, stop


@GRADIO
def test_a_run_is_offered_to_this_machine_alone(finished_run, capfd):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    thread, stop = start(finished_run, "--port", port)
    out = ""
    while f"http://127.0.0.1:{port}/" not in out:
        assert thread.is_alive()
        out += capfd.readouterr().out
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().decode()
    assert "fonts.googleapis" not in page
    # Files of the machine are not given out, nor are those of the folder that it was started in.
    for path in ("/etc/passwd", finished_run / "config.yaml", "pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/gradio_api/file={path}")
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        # Another address of this machine.
        other.connect(("127.0.0.2", port))
    args = argument_parser().parse_args(["--run", str(finished_run), "--port", str(port)])
    with pytest.raises(ConfigError, match=rf"--port {port}: .*in use; --port 0 takes a free port"):
        main(args)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


@GRADIO
def test_code_of_the_run_folder_does_not_run(finished_run, tmp_path):
    text = (finished_run / "config.yaml").read_text()
    ran = tmp_path / "ran"
    (tmp_path / "config.yaml").write_text(f"{text}\nextra: {{_target_: os.mkdir, path: '{ran}'}}\n")
    for name in ("metadata.json", "model_final.pth"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    with pytest.raises(ConfigError, match=r"os\.mkdir.*--trust-run"):
        main(argument_parser().parse_args(["--run", str(tmp_path)]))
    assert not ran.exists()


def test_without_gradio_one_line_says_how_to_get_it(finished_run, monkeypatch):
    for name in ("mrcnn_plugin.serve.page", "mrcnn_plugin.serve.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"pip install 'mrcnn_plugin\[serve\]'$") as error:
        main(argument_parser().parse_args(["--run", str(finished_run)]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--run", "nowhere"], "not a run folder"),
        (["--run", "x", "--score-threshold", "2"], r"must be in \[0, 1\]"),
        (["--model", "x.onnx", "--trust-run"], "--trust-run does not go with --model"),
        (["--model", "x.onnx"], "no exported model at"),
    ],
)
def test_command_lines_that_are_wrong(line, message, monkeypatch):
    monkeypatch.setattr("mrcnn_plugin.serve.command_line._gradio", lambda: (None, None))
    with pytest.raises(ConfigError, match=message):
        main(argument_parser().parse_args(line))
