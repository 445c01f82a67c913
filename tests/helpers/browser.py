"""Chromium, headless, as a person uses it: opens a page, clicks, chooses files, and says what it saw.

Commands and events go through a pipe, in the protocol of Chromium's developer tools:
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--window-size=1400,1000", "--hide-scrollbars"),
)


class Browser:
    """One tab.

    Attributes:
        console: errors that the page has caused, as the developer tools list them.
        requested: addresses that the page has asked for.
    """

    def __init__(self, process: subprocess.Popen, to: int, of: int) -> None:
        self.console: list[str] = []
        self.requested: list[str] = []
        self._process, self._to, self._of = process, to, of
        self._received, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, *, timeout: float = 60, **params: Any) -> dict:
        """Sends a command, and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self, deadline: float) -> dict:
        """The next message; events are noted on the way."""
        while b"\0" not in self._received:
            assert select.select([self._of], [], [], max(0, deadline - time.monotonic()))[0], "no answer"
            data = os.read(self._of, 1 << 20)
            assert data, f"the browser has ended: {self._process.wait()}"
            self._received += data
        line, _, self._received = self._received.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, params: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.console.append(json.dumps(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.console.append(json.dumps(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.console.append(json.dumps(params["entry"]))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str, timeout: float = 60) -> Any:
        """Waits until the expression is true; its value."""
        deadline = time.monotonic() + timeout
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, (script, self.console, self.run("document.body.innerText"))
            time.sleep(0.05)
        return value

    def choose_file(self, selector: str, path: Path) -> None:
        """Gives a file to the <input type=file> at the selector."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """A browser with an empty profile, which ends with the block."""
    assert CHROMIUM, "needs chromium (Debian: apt-get install chromium)"
    commands, to = os.pipe()
    of, events = os.pipe()
    # Chromium reads commands at 3 and writes events at 4; neither is in the way of the pipes' own numbers.
    high = [os.dup(each) for each in (commands, events)]
    line = 'exec "$0" "$@" 3<&{} 4>&{}'.format(*high)
    process = subprocess.Popen(
        ["bash", "-c", line, CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=high,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for each in (commands, events, *high):
        os.close(each)
    try:
        yield Browser(process, to, of)
    finally:
        process.terminate()
        process.wait(30)
        os.close(to)
        os.close(of)
