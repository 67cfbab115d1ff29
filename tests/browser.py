"""Headless Chromium for tests, by its own protocol over a pipe: no driver, no port, no further package.

`.ci/run` installs Chromium, and axe-core as `tests/browser/package.json` pins it; elsewhere tests that need them skip
with a line.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(__file__).parent / "browser" / "node_modules" / "axe-core" / "axe.min.js"

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium")
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="no axe-core: npm ci --prefix tests/browser")


class Browser:
    """One tab of a Chromium.

    Attributes:
        errors: what the console and uncaught exceptions said.
        requests: every address that was asked for.
    """

    def __init__(self, to: int, of: int):
        """Take the two ends of Chromium's pipe, and open a tab."""
        self._to, self._of, self._rest, self._count, self._session = to, of, b"", 0, None
        self._loaded = False
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for what it returns."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            pass
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._of, 1 << 20)
            if not piece:
                raise AssertionError("Chromium has ended")
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(
                params["exceptionDetails"].get("text", "") + str(params["exceptionDetails"].get("exception"))
            )
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])

    def open(
        self, page: Path | str, width: int = 1280, height: int = 800, dark: bool = False, scripts: bool = True
    ) -> None:
        """Open a file, or an address, in a window of that size, and wait until it is there."""
        self.errors.clear()
        self.requests.clear()
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False  # on a busy machine the event may come before the call's answer
        done = self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while "loaderId" in done and not self._loaded:  # not where only what follows `#` is another: that loads nothing
            self._read()

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; of a promise, what it resolves to."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise AssertionError(done["exceptionDetails"])
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key: `Tab`, `Enter` or `Escape`."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        for kind in ("keyDown", "keyUp"):
            more = {"text": "\r"} if (key, kind) == ("Enter", "keyDown") else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a Chromium with nothing of the user's, and end it."""
    ours, theirs = os.pipe(), os.pipe()  # (they read, we write), (we read, they write)
    command = [
        PROGRAM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
    ]

    def connect() -> None:
        os.dup2(read, 3)
        os.dup2(write, 4)
        os.set_inheritable(3, True)
        os.set_inheritable(4, True)

    read, write = os.dup(ours[0]), os.dup(theirs[1])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=connect,
        )
        for end in (ours[0], theirs[1], read, write):
            os.close(end)
        try:
            yield Browser(ours[1], theirs[0])
        finally:
            os.close(ours[1])
            os.close(theirs[0])
            process.terminate()
            process.wait(30)
