"""A page to drop images on, for one person on this machine: it is served at 127.0.0.1 and nowhere else.

By Starlette and uvicorn, which MLflow brings: Gradio would bring some forty packages more. Nothing is written, and what
is shown of a file stays in the browser.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.prediction.saved import Saved, answers, picture
from stages.runtime.errors import UserError

HOST = "127.0.0.1"

LIMIT = 200 * 2**20
"""Bytes of an image."""

BINARY = "application/octet-stream"
"""The one content type that is taken: another site's page could send it only if this one allowed it."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:; connect-src 'self'; "
    "frame-ancestors 'none'"
)


def application(model: Any, processor: Any, task: Saved, question: str, threshold: float) -> Any:
    """The page (`GET /`) and the answer about the image that is its body (`POST /predict?name=`), as a Starlette app.

    The answer is a `stages.prediction.saved.Prediction` as JSON, or `error`, one line, with status 413, 415 or 422.
    """
    from html import escape

    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    for mark, text in {"{question}": question, "{classes}": ", ".join(task.classes)}.items():
        html = html.replace(mark, escape(text))
    one_at_a_time = threading.Lock()

    def answer(name: str, content: bytes) -> dict[str, Any]:
        image = picture(content, name, task.images)
        with one_at_a_time:
            shown = iter([(Path(name), image)])
            return asdict(next(answers(model, processor, task, question, shown, 1, threshold=threshold)))

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    async def predict(request: Request) -> JSONResponse:
        if request.headers.get("content-type") != BINARY:
            return JSONResponse({"error": f"content type: valid: {BINARY}"}, 415)
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > LIMIT:
                return JSONResponse({"error": f"the file has more than {LIMIT // 2**20} MB"}, 413)
        try:
            name = request.query_params.get("name") or "image"
            return JSONResponse(await run_in_threadpool(answer, name, bytes(content)))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 422)

    # A site whose name leads here (DNS rebinding) would read the answers as its own.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=[Route("/", page), Route("/predict", predict, methods=["POST"])], middleware=[hosts])


def serve(model: Any, processor: Any, task: Saved, question: str, threshold: float, port: int) -> None:
    """Serve the page until Ctrl-C; print its address.

    Raises:
        UserError: the port is taken.
    """
    import uvicorn

    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"--port: {port} cannot be had ({error.strerror}); valid: another, or 0 for any") from None
    print(f"http://{HOST}:{listening.getsockname()[1]} (Ctrl-C stops it)", flush=True)
    app = application(model, processor, task, question, threshold)
    # A browser keeps its connection, which would keep Ctrl-C waiting.
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])
