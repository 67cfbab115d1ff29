"""The page of predict: what it serves and refuses, and a real browser that drops an image on it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from stages.runtime.errors import UserError
from tests.conftest import ROOT
from tests.test_predict import drawn, encoded, model, predictions  # noqa: F401 (a fixture)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:  # noqa: F811
    """Of the page, as the command prints it."""
    command = [sys.executable, "-m", "stages", "predict", "--model", str(model), "--page", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def post(address: str, content: bytes, **headers: str) -> tuple[int, dict]:
    """The status and what is said of an image."""
    kind = {"Content-Type": "application/octet-stream"}
    given = kind | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(f"{address}/predict?name=a.png", content, given), timeout=60) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else {"error": text}


def test_it_answers_as_the_command_does(address, model, tmp_path):  # noqa: F811
    assert address.startswith("http://127.0.0.1:")
    (tmp_path / "a.png").write_bytes(encoded(drawn(3)))
    (expected,) = predictions(model, [tmp_path / "a.png"])
    status, said = post(address, encoded(drawn(3)))
    assert (status, said["image"], said["completion"], said["answer"]) == (
        200, "a.png", expected.completion, expected.answer,
    )  # fmt: skip
    with urlopen(address) as reply:
        html = reply.read().decode()
    assert "What digit is in the photo?" in html and "zero, one, two" in html


def test_what_it_refuses_is_said_in_a_line(address):
    status, said = post(address, b"no image")
    assert (status, said) == (
        422, {"error": "a.png: cannot be read as an image"},
    )  # fmt: skip
    assert post(address, encoded(drawn(1)), Content_Type="text/plain")[0] == 415
    assert post(address, encoded(drawn(1)), Host="example.org")[0] == 400


def test_nobody_else_reaches_it(address):
    """It listens on the loopback address alone."""
    port = int(address.rsplit(":", 1)[1])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
    for other in {*others, "127.0.0.2"}:
        with pytest.raises(OSError), socket.create_connection((other, port), timeout=2):
            pass


def test_a_taken_port_is_named():
    from stages.prediction import page

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match=r"^--port: \d+ cannot be had \(.*\); valid: another, or 0 for any$"),
    ):
        page.serve(None, None, None, "", 0.0, taken.getsockname()[1])


class Tab:
    """A tab of a browser, by the protocol of its developer tools."""

    def __init__(self, connection):
        self.connection = connection
        self.number = 0

    async def call(self, method: str, **params: object) -> dict:
        self.number += 1
        await self.connection.send_json({"id": self.number, "method": method, "params": params})
        while True:
            reply = await self.connection.receive_json(timeout=60)
            if reply.get("id") == self.number:
                assert "error" not in reply, reply
                return reply["result"]

    async def value(self, expression: str) -> object:
        return (await self.call("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

    async def until(self, expression: str) -> None:
        end = time.monotonic() + 60
        while not await self.value(expression):
            assert time.monotonic() < end, await self.value("document.body.innerText")
            await asyncio.sleep(0.1)


async def browse(address: str, folder: Path, files: list[Path]) -> tuple[list[str], bytes]:
    """Drop the first file on the page, choose the others; return what it shows of each, the last first."""
    from base64 import b64decode

    from aiohttp import ClientSession

    options = [
        "--headless=new",
        "--disable-gpu",
        "--no-first-run",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}",
    ]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [CHROMIUM, *options, "--remote-debugging-port=0", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not port.is_file() or not port.read_text().strip():
            assert time.monotonic() < end, "the browser does not start"
            await asyncio.sleep(0.1)
        async with ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as reply:
                (tab,) = [each for each in await reply.json() if each["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as connection:
                tab = Tab(connection)
                await tab.call("Page.enable")
                await tab.call("DOM.enable")
                await tab.call("Page.navigate", url=address)
                await tab.until("!!document.getElementById('file') && document.readyState === 'complete'")
                place = await tab.value("JSON.stringify(document.getElementById('drop').getBoundingClientRect())")
                box = json.loads(place)
                data = {"items": [], "files": [str(files[0])], "dragOperationsMask": 1}
                for kind in ("dragEnter", "dragOver", "drop"):
                    await tab.call("Input.dispatchDragEvent", type=kind, x=box["x"] + 20, y=box["y"] + 20, data=data)
                answered = "[...document.querySelectorAll('.answer')].filter(e => e.textContent !== '…').length >= {}"
                await tab.until(answered.format(1))
                root = await tab.call("DOM.getDocument")
                node = await tab.call("DOM.querySelector", nodeId=root["root"]["nodeId"], selector="#file")
                await tab.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(each) for each in files[1:]])
                await tab.until(answered.format(len(files)))
                shown = await tab.value("[...document.querySelectorAll('section')].map(e => e.innerText)")
                picture = await tab.call("Page.captureScreenshot")
                return shown, b64decode(picture["data"])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_drops_an_image_and_chooses_others(address, model, tmp_path):  # noqa: F811
    for name, content in {"a.png": encoded(drawn(3)), "<b>.png": encoded(drawn(7)), "c.png": b"no image"}.items():
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / name for name in ("a.png", "<b>.png", "c.png")]
    shown, picture = asyncio.run(browse(address, tmp_path / "browser", files))
    assert picture.startswith(b"\x89PNG")
    broken, second, first = shown
    assert broken.split("\n\n")[-1] == "c.png: cannot be read as an image"
    for text, file in ((first, files[0]), (second, files[1])):
        (expected,) = predictions(model, [file])
        assert file.name in text  # as it is called, and not as HTML
        if expected.answer is None:
            assert "none of these (no valid answer)" in text and "The model wrote: " in text
        else:
            assert expected.answer in text and f"{100 * expected.score:.1f}% {expected.answer}" in text
    if target := os.environ.get("SCREENSHOT"):
        Path(target).write_bytes(picture)
