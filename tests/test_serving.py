"""docs/serving.md: the request asks a server what `predict` asks the model."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.test_predict import drawn, encoded, model  # noqa: F401 (a fixture)


def code(model: Path, address: str) -> str:  # noqa: F811
    """The page's Python about another model and address."""
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return found.replace("http://127.0.0.1:8000", address).replace("grids/mine/models/best/mine", str(model))


def test_the_request_has_prompt_and_pixels_of_predict(model, tmp_path):  # noqa: F811
    asked: list[dict] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append({"path": self.path} | json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": "two"}}]}).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "image.jpg").write_bytes(encoded(drawn(3)))
    try:
        command = [sys.executable, "-c", code(model, f"http://127.0.0.1:{server.server_port}")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    finally:
        server.shutdown()
        server.server_close()
    assert done.stdout == "two\n"
    (request,) = asked
    task = json.loads((model / "task.json").read_text())
    assert request["path"] == "/v1/chat/completions" and request["model"] == str(model)
    assert (request["max_tokens"], request["temperature"]) == (task["generation"]["max_new_tokens"], 0.0)
    (turn,) = request["messages"]
    picture, words = turn["content"]
    assert words == task["conversation"][0]["content"][1]
    sent = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))))
    from stages.prediction.saved import picture as read
    from stages.prediction.saved import read_task

    assert sent.tobytes() == read(encoded(drawn(3)), "image.jpg", read_task(model).images).tobytes()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openai") is None, reason="transformers serve needs its extra `serving`")
def test_a_real_server_answers_as_predict(model, tmp_path):  # noqa: F811
    """`transformers serve` on this machine's processor."""
    from tests.test_predict import predictions

    (tmp_path / "image.jpg").write_bytes(encoded(drawn(3)))
    paths = [str(ROOT / "tests/standins")] * (find_spec("torchvision") is None)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    address = "http://127.0.0.1:18654"
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model), "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", "18654", "--device", "cpu"], env=environment | {"HF_HUB_OFFLINE": "1"}
    )
    try:
        end = time.monotonic() + 300
        while True:
            try:
                urlopen(f"{address}/health", timeout=5).close()
                break
            except (URLError, TimeoutError):
                assert time.monotonic() < end and server.poll() is None
                time.sleep(1)
        done = subprocess.run(
            [sys.executable, "-c", code(model, address)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
    finally:
        server.kill()
        server.wait()
    (expected,) = predictions(model, [tmp_path / "image.jpg"])
    assert done.stdout.strip() == expected.completion.strip()
