"""The application: the page's files, what it asks over HTTP, and the socket on which its jobs report."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import zipfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from retrograde.cli.console import plain
from retrograde.errors import RetrogradeError
from retrograde.studio import lines, request, shown, work
from retrograde.studio.desk import Busy, Desk, Event, Job
from retrograde.studio.guard import Guard
from retrograde.studio.shelf import Shelf, fine_grid

STATIC = Path(str(files("retrograde.studio"))) / "static"
_log = logging.getLogger("retrograde.studio")


def create(model: str | None = None, folder: Path | None = None, host: str = "127.0.0.1") -> Guard:
    """Return the studio as an ASGI application.

    Args:
        model: offered first, beside those that ship: a folder or package.module:function.
        folder: where plan files are looked for; the current one by default.
        host: the address it will be served at; other hosts than loopback widen whom `Guard` lets in.
    """
    shelf, desk = Shelf(model, folder), Desk()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, _warm, shelf)
            yield

    # Their documentation pages load scripts from another host.
    app = FastAPI(title="Retrograde studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(RetrogradeError)
    def refused(_: Request, error: RetrogradeError) -> JSONResponse:
        return JSONResponse(_failed(error), 422)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(_failed(request.refused(error.errors())), 422)

    @app.get("/api/catalogue")
    def catalogue() -> dict[str, Any]:
        return shown.catalogue(shelf)

    @app.get("/api/model")
    def model_facts(name: str) -> dict[str, Any]:
        return shown.model(shelf, name)

    @app.get("/api/plans")
    def plans() -> list[dict[str, Any]]:
        return shelf.listed()

    @app.post("/api/plans")
    def upload(asks: request.Upload) -> dict[str, Any]:
        return {"key": shelf.receive(asks.files)}

    @app.post("/api/export/lines")
    def export_lines(asks: request.Shown) -> dict[str, str]:
        denoiser, condition = shelf.denoiser(asks.batch), shelf.condition(asks.batch)
        sides = [(sampler, shelf.plan(sampler, denoiser)) for sampler in asks.samplers]
        return {"name": "studio.py", "text": lines.lines(asks.batch, condition, sides, fine_grid(denoiser))}

    @app.post("/api/export/plan")
    def export_plan(asks: request.Shown, side: int = 0) -> Response:
        sampler = asks.samplers[min(max(side, 0), len(asks.samplers) - 1)]
        plan = shelf.plan(sampler, shelf.denoiser(asks.batch))
        name, content = _exported(plan, lines.file_name(plan, asks.batch, side))
        return Response(
            content,
            media_type="application/zip" if name.endswith(".zip") else "application/json",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await _converse(websocket, shelf, desk)

    app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return Guard(app, host)


def _warm(shelf: Shelf) -> None:
    try:
        work.warm(shelf)
    except Exception as error:  # the page says it when it asks for the model
        _log.info("the first model could not be loaded ahead: %s", error)


async def _converse(websocket: WebSocket, shelf: Shelf, desk: Desk) -> None:
    """Answer the messages of one page until it leaves; what it had begun is stopped then, and has ended on return."""
    kept: work.Kept = {}
    mine: list[Job] = []
    speaking = anyio.Lock()

    async def send(event: Event) -> None:
        async with speaking:
            try:
                await websocket.send_text(json.dumps(plain(event), allow_nan=False))
            except (WebSocketDisconnect, RuntimeError):
                for job in mine:  # nobody listens any more
                    job.cancel()

    async with anyio.create_task_group() as tasks:
        try:
            while True:
                text = await websocket.receive_text()
                try:
                    asks = request.read(text)
                    if isinstance(asks, request.Cancel):
                        desk.cancel(asks.job)
                        continue
                    job = await desk.take("a fit" if asks.do == "tune" else "a run", send, asks.replaces)
                except RetrogradeError as error:
                    await send(_failed(error))
                    continue
                mine[:] = [job]
                tasks.start_soon(desk.do, job, _work(asks, shelf, kept), _failed)
        except WebSocketDisconnect:
            pass
        finally:
            for job in mine:
                job.cancel()


def _work(asks: request.Run | request.Tune, shelf: Shelf, kept: work.Kept) -> Callable[[Job], None]:
    if isinstance(asks, request.Tune):
        return lambda job: work.tune(job, shelf, asks)
    return lambda job: work.run(job, shelf, asks, kept)


def _failed(error: Exception) -> Event:
    """Return an error as the page shows it: given, allowed, and the line that mends it."""
    if isinstance(error, Busy):
        busy = {"job": error.job.number, "what": error.job.what}
        return {"event": "busy", "given": error.given, "allowed": error.allowed, "mend": error.mend, **busy}
    if isinstance(error, RetrogradeError):
        return {"event": "failed", "given": error.given, "allowed": error.allowed, "mend": error.mend}
    _log.error("a job failed", exc_info=error)
    given = f"{type(error).__name__}: {error}"[:400]
    allowed = "a plan and a model that fit each other"
    return {
        "event": "failed",
        "given": given,
        "allowed": allowed,
        "mend": "try another plan; the terminal says more",
    }


def _exported(plan: Any, name: str) -> tuple[str, bytes]:
    """Return a plan as a file: .json, or .zip where tensors lie beside it."""
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder) / name)
        written = sorted(Path(folder).iterdir())
        if len(written) == 1:
            return name, written[0].read_bytes()
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in written:
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
        return f"{Path(name).stem}.zip", stream.getvalue()
