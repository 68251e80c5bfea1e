"""The page, put together."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from detect import __version__
from detect.errors import DataError, ImageError, MissingExtraError, SmearError

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.staticfiles import StaticFiles
except ImportError:
    raise MissingExtraError("the page", "web") from None

from detect.web import api, pages
from detect.web.forms import KeptError
from detect.web.guard import Guard
from detect.web.metrics import Counted
from detect.web.records import FullError
from detect.web.service import EarlyError, MissingError, Service
from detect.web.settings import WebSettings

HERE = Path(__file__).parent
_SECRET = 32  # bytes
_log = logging.getLogger("smear.web")


def make(settings: WebSettings) -> FastAPI:
    """The application; uploads are scored while it runs.

    Raises:
        ConfigError, BundleError: the pipelines cannot run.
    """
    service = Service(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.scorers.start()
        try:
            yield
        finally:
            service.scorers.close()

    app = FastAPI(
        title="smear-detect",
        version=__version__,
        description="Cells of blood smears: found, typed, counted. For research use, not a diagnosis.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.service, app.state.counted = service, Counted()
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    _answers(app)

    @app.middleware("http")
    async def count(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.monotonic()
        answer = await follow(request)
        app.state.counted.add(answer.status_code, time.monotonic() - began)
        return answer

    secret = _secret(settings.data / "secret")
    app.state.guard = Guard(app, settings, secret)
    app.add_middleware(Guard, settings=settings, secret=secret)
    return app


def _secret(path: Path) -> bytes:
    """What forms and cookies are signed with; kept, so that a page that is open works on when this is started again."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        kept = path.read_bytes()
        if len(kept) == _SECRET:
            return kept
        path.unlink()  # a crash cut it short
        return _secret(path)
    with os.fdopen(handle, "wb") as file:
        made = secrets.token_bytes(_SECRET)
        file.write(made)
    return made


def _answers(app: FastAPI) -> None:
    """How errors are told: as JSON under /api, else as a page."""

    def tell(request: Request, status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        if request.url.path.startswith("/api"):
            return JSONResponse(told, status, headers)
        return pages.refused(request, status, told, headers)

    def of(error: SmearError) -> dict[str, Any]:
        return {"error": error.problem, "where": error.where, "remedy": error.remedy}

    @app.exception_handler(SmearError)
    async def ours(request: Request, error: SmearError) -> Response:
        status = 422 if isinstance(error, DataError | ImageError) else 500
        status = 404 if isinstance(error, MissingError) else 409 if isinstance(error, EarlyError) else status
        status = 503 if isinstance(error, KeptError) else status
        if status == 500:
            _log.error("%s %s: %s", request.method, request.scope["route"].path, error.problem)
        return tell(request, status, of(error))

    @app.exception_handler(FullError)
    async def full(request: Request, error: FullError) -> Response:
        told = {"error": "too many uploads wait", "where": None, "remedy": f"send it again in {error.wait} s"}
        return tell(request, 429, told, {"Retry-After": str(error.wait)})

    @app.exception_handler(OSError)
    async def kept(request: Request, error: OSError) -> Response:
        _log.error("%s: %s", request.method, error.strerror)
        told = {"error": f"it cannot be kept: {error.strerror}", "where": None, "remedy": "send it again later"}
        return tell(request, 503, told)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return tell(request, 422, {"error": str(first["msg"]), "where": where, "remedy": "see /api/openapi.json"})

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        return tell(
            request,
            error.status_code,
            {"error": str(error.detail), "where": None, "remedy": None},
            dict(error.headers or {}),
        )
