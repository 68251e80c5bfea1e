"""`smear web`: the page."""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from detect.cli.options import AutoPrecision, Runtime
from detect.cli.output import out as console


def web(
    pipeline: Annotated[
        list[str] | None,
        typer.Option("--pipeline", help="YAML of a pipeline, or a packaged name; repeated, they stand side by side."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this machine's ask a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    data: Annotated[
        Path | None, typer.Option("--data", help="Private folder of uploads and corrections; by default in your home.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Name that visitors reach it by; may be repeated."),
    ] = None,
    token: Annotated[
        str, typer.Option("--token", envvar="SMEAR_WEB_TOKEN", help="Access token; made where it is needed.")
    ] = "",
    keep_hours: Annotated[float, typer.Option("--keep-hours", help="After which uploads are deleted.")] = 24.0,
    workers: Annotated[int, typer.Option("--workers", help="Processes that score; 0 takes one per core.")] = 0,
    queue: Annotated[int, typer.Option("--queue", help="Uploads that may wait; more are told to come again.")] = 64,
    fields: Annotated[int, typer.Option("--fields", help="Most pictures of one upload.")] = 500,
    file_mib: Annotated[int, typer.Option("--file-mib", help="Most MiB of one file.")] = 64,
    upload_mib: Annotated[int, typer.Option("--upload-mib", help="Most MiB of one upload.")] = 1024,
    mega_pixels: Annotated[float, typer.Option("--mega-pixels", help="Most million pixels of one picture.")] = 60.0,
    patience: Annotated[float, typer.Option("--patience", help="Seconds that scoring one upload may take.")] = 1800.0,
    runtime: Runtime = "auto",
    precision: AutoPrecision = "auto",
) -> None:
    """Serve a page: upload fields of a slide, see the cells, the attributes, the differential; correct and export.

    It is scored as by `smear score`. Only this machine is answered unless --host says otherwise; then visitors show
    the token that is printed. Ctrl-C ends it: uploads that wait are scored when it is started again.
    """
    from detect.config import parse
    from detect.pipeline.settings import load_pipeline
    from detect.score.settings import ScoreSettings
    from detect.web.app import make
    from detect.web.serve import serve
    from detect.web.settings import WebSettings

    near = _is_loopback(host) and not name
    if not near and not token:
        token = secrets.token_urlsafe(24)
    told = {"runtime": runtime, "precision": precision}
    names = pipeline or ["page"]
    scorings = [parse(ScoreSettings, told | {"pipeline": load_pipeline(p).model_dump()}, "options") for p in names]
    given: dict[str, object] = {
        "data": (data or _home()).resolve(),
        "scorings": scorings,
        "workers": workers,
        "queue": queue,
        "keep_hours": keep_hours,
        "file_mib": file_mib,
        "upload_mib": upload_mib,
        "fields": fields,
        "mega_pixels": mega_pixels,
        "patience": patience,
        "token": token,
        "hosts": _names(host, name or []),
    }
    app = make(parse(WebSettings, given, "options"))

    def ready(url: str) -> None:
        console.print(f"the page: {url}  (stop it with Ctrl-C)", soft_wrap=True)
        if token:
            console.print(f"access token: {token}", soft_wrap=True)
        console.print("morphology, for research use, not a diagnosis", style="bold")

    serve(app, host, port, ready)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(host: str, more: list[str]) -> list[str]:
    """Names that the page answers to: any where it listens on all addresses and none was given."""
    if host in ("0.0.0.0", "::") and not more:
        return []
    return ["127.0.0.1", "localhost", "::1", host, *more]


def _home() -> Path:
    """Where programs keep what is theirs, on this system."""
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".local" / "share") / "smear-detect" / "web"
