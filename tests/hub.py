"""A hub on this machine that speaks as the real one."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants

COMMIT = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that speaks as the real one: files, trees of files, and errors by their code."""

    files: ClassVar[dict[str, bytes]]
    errors: ClassVar = {
        "/gated": (403, "GatedRepo"),
        "/private": (401, "RepoNotFound"),
        "b" * 40: (404, "RevisionNotFound"),
    }

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def log_message(self, *_):
        """Say nothing."""

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        content = self.files.get(path, b"")
        if path in self.files:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Type", "application/json" if path.startswith("/api") else "application/binary")
        else:
            status, code = next((self.errors[part] for part in self.errors if part in path), (404, "EntryNotFound"))
            self.send_response(status)
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def repository(folder: Path, name: str, kind: str = "models") -> dict[str, bytes]:
    """What the hub answers about a repository with the files of a folder, by path."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    tree = [
        {"type": "file", "path": name, "size": file.stat().st_size, "oid": "1" * 40} for name, file in files.items()
    ]
    start = "" if kind == "models" else f"/{kind}"
    return {f"/api/{kind}/{name}/tree/{COMMIT}": json.dumps(tree).encode()} | {
        f"{start}/{name}/resolve/{COMMIT}/{path}": file.read_bytes() for path, file in files.items()
    }


@contextlib.contextmanager
def serve(handler: type[Hub], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve in the block, with the hub's client pointed here and an empty cache."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
