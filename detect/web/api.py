"""The API: what the pages show, as JSON, under `/api`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from detect.web import metrics, pictures, told
from detect.web.exports import FORMS
from detect.web.forms import posted
from detect.web.service import Service

TYPES = {
    "csv": "text/csv; charset=utf-8",
    "coco": "application/json",
    "geojson": "application/zip",
    "review": "application/zip",
    "corrections": "application/x-ndjson",
}
_ENDS = {"csv": "cells.csv", "coco": "coco.json", "geojson": "geojson.zip", "review": "review.zip"}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
                        "title": {"type": "string", "maxLength": 80},
                    },
                }
            }
        },
    }
}
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": told.Refused}, 409: {"model": told.Refused}}
_REFUSED: dict[int | str, dict[str, Any]] = {n: {"model": told.Refused} for n in (400, 403, 413, 422, 429)}
_PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}, **_MISSING}
_FILE: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in set(TYPES.values())}}, **_MISSING}

Upload = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="as the upload was answered")]
Number = Annotated[int, Path(ge=1, le=100_000, description="of the field, from 1")]
Cell = Annotated[int, Path(ge=0, le=1_000_000, description="of the cell in its field, from 0")]


def service_of(request: Request) -> Service:
    """The one service of the page."""
    found: Service = request.app.state.service
    return found


Serving = Annotated[Service, Depends(service_of)]
router = APIRouter(prefix="/api", default_response_class=Response)


@router.get("/health", tags=["page"], response_model=told.Health)
def health(service: Serving) -> Any:
    """Whether uploads are scored: 503 where nobody is there to do it."""
    counts = service.records.counts()
    waiting = counts.get("queued", 0) + counts.get("running", 0)
    state: Literal["ok", "failing"] = "ok" if service.scorers.alive else "failing"
    found = told.Health(state=state, workers=service.scorers.alive, waiting=waiting)
    return _json(found, 200 if state == "ok" else 503)


@router.get("/metrics", tags=["page"], response_class=PlainTextResponse)
def figures(service: Serving, request: Request) -> str:
    """Figures for Prometheus."""
    return metrics.text(service, request.app.state.counted)


@router.get("/uploads", tags=["uploads"], response_model=list[told.UploadTold])
def uploads(service: Serving, most: Annotated[int, Query(ge=1, le=1000)] = 50) -> Any:
    """Uploads that are still there, the latest first."""
    return _json([service.about(one) for one in service.records.uploads(most)])


@router.post(
    "/uploads",
    tags=["uploads"],
    status_code=202,
    response_model=told.UploadTold,
    responses=_REFUSED,
    openapi_extra=_UPLOAD,
)
async def upload(service: Serving, request: Request) -> Any:
    """Send the fields of one slide: pictures, or a zip of them. They are scored in the background.

    429 with Retry-After where too many uploads wait.
    """
    service.records.check_room()
    async with posted(request, service.settings.fields + 1) as (files, fields):
        found = await run_in_threadpool(service.add, files, fields.get("title", ""))
        return _json(service.about(found), 202, {"Location": f"/api/uploads/{found.id}"})


@router.get("/uploads/{upload}", tags=["uploads"], response_model=told.UploadTold, responses=_MISSING)
def one(service: Serving, upload: Upload) -> Any:
    """How far it is."""
    return _json(service.about(service.get(upload)))


@router.delete("/uploads/{upload}", tags=["uploads"], status_code=204, responses=_MISSING)
def gone(service: Serving, upload: Upload) -> Response:
    """Delete it and everything made of it, at once; corrections are kept."""
    service.delete(upload)
    return Response(status_code=204)


@router.get("/uploads/{upload}/assessment", tags=["results"], response_model=told.Assessment, responses=_MISSING)
def assessment(service: Serving, upload: Upload) -> Any:
    """What the slide comes to: differential, models side by side, what they agree on."""
    return _json(service.assessment(service.scored(upload)))


@router.get("/uploads/{upload}/fields", tags=["results"], response_model=list[told.FieldTold], responses=_MISSING)
def fields(service: Serving, upload: Upload) -> Any:
    """Its fields, read or not."""
    return _json(service.scored(upload).fields)


@router.get("/uploads/{upload}/cells", tags=["results"], response_model=list[told.CellTold], responses=_MISSING)
def cells(
    service: Serving,
    upload: Upload,
    field: Annotated[int | None, Query(ge=1, le=100_000)] = None,
    name: Annotated[str | None, Query(max_length=60, description="type, else the detector's class")] = None,
    least: Annotated[float, Query(ge=0, le=1, description="least score of the detector")] = 0.0,
) -> Any:
    """Its cells: all, or those of one field, or of one name."""
    scored = service.scored(upload)
    if field is not None:
        service.field(scored, field)
    found = (c for c in scored.cells(field) if c.score >= least and name in (None, c.name))
    return _json(list(found))


@router.get(
    "/uploads/{upload}/fields/{number}/picture.jpg", tags=["pictures"], response_class=Response, responses=_PICTURE
)
def picture(
    service: Serving, upload: Upload, number: Number, side: Annotated[int, Query(ge=16, le=8192)] = 4096
) -> Response:
    """A field, its longer side at most that many pixels."""
    scored = service.scored(upload)
    service.field(scored, number)
    return _jpeg(pictures.jpeg(pictures.field(scored, number, side)))


@router.get(
    "/uploads/{upload}/fields/{number}/cells/{cell}/crop.jpg",
    tags=["pictures"],
    response_class=Response,
    responses=_PICTURE,
)
def crop(service: Serving, upload: Upload, number: Number, cell: Cell) -> Response:
    """A cell with some of what is around it."""
    scored = service.scored(upload)
    return _jpeg(pictures.jpeg(pictures.cell(scored, service.cell(scored, number, cell))))


@router.get(
    "/uploads/{upload}/fields/{number}/cells/{cell}/map.jpg",
    tags=["pictures"],
    response_class=Response,
    responses=_PICTURE,
)
def map_(service: Serving, upload: Upload, number: Number, cell: Cell) -> Response:
    """Where the classifier looks: what its answer loses where the crop is blurred. 404 where none was asked."""
    scored = service.scored(upload)
    found = service.map(scored, service.cell(scored, number, cell))
    if found is None:
        return _json(told.Refused(error="no classifier was asked of this cell"), 404)
    return _jpeg(found[0])


@router.get(
    "/uploads/{upload}/fields/{number}/cells/{cell}/near",
    tags=["results"],
    response_model=list[told.Near],
    responses=_MISSING,
)
def near(service: Serving, upload: Upload, number: Number, cell: Cell) -> Any:
    """Cells that people named and that look most like this one."""
    scored = service.scored(upload)
    return _json(service.near(scored, service.cell(scored, number, cell)))


@router.post(
    "/uploads/{upload}/corrections",
    tags=["review"],
    status_code=201,
    response_model=told.Said,
    responses=_MISSING | _REFUSED,
)
def correct_slide(service: Serving, upload: Upload, said: told.Correcting) -> Any:
    """Say of the slide what its counts or its scale are."""
    return _correct(service, upload, None, None, said)


@router.post(
    "/uploads/{upload}/fields/{number}/corrections",
    tags=["review"],
    status_code=201,
    response_model=told.Said,
    responses=_MISSING | _REFUSED,
)
def correct_field(service: Serving, upload: Upload, number: Number, said: told.Correcting) -> Any:
    """Say of a field what its counts, its scale or its quality are."""
    return _correct(service, upload, number, None, said)


@router.post(
    "/uploads/{upload}/fields/{number}/cells/{cell}/corrections",
    tags=["review"],
    status_code=201,
    response_model=told.Said,
    responses=_MISSING | _REFUSED,
)
def correct_cell(service: Serving, upload: Upload, number: Number, cell: Cell, said: told.Correcting) -> Any:
    """Confirm or change the type of a cell, or one of its attributes. The machine's own value stays beside it."""
    return _correct(service, upload, number, cell, said)


@router.get("/uploads/{upload}/export/{form}", tags=["results"], response_class=Response, responses=_FILE)
async def export(
    service: Serving, upload: Upload, form: Literal["csv", "coco", "geojson", "review", "corrections"]
) -> Response:
    """Everything in a form that other programs read, with what people said of it."""
    return await run_in_threadpool(exported, service, upload, form)


def exported(service: Service, upload: str, form: str) -> Response:
    """A file to download; it is read while it is sent, and then is nowhere."""
    assert form in FORMS
    with service.exported(upload, form) as path:
        held = tempfile.TemporaryFile(dir=service.settings.scratch)  # noqa: SIM115, it is closed when it is sent
        with path.open("rb") as source:
            while data := source.read(1 << 20):
                held.write(data)
    size = held.tell()
    held.seek(0)

    def chunks() -> Iterator[bytes]:
        with held:
            while data := held.read(1 << 18):
                yield data

    named = f'attachment; filename="{_ENDS.get(form, "corrections.jsonl")}"'
    headers = {"Content-Disposition": named, "Content-Length": str(size)}
    return StreamingResponse(chunks(), media_type=TYPES[form], headers=headers)


def _correct(service: Service, upload: str, number: int | None, cell: int | None, said: told.Correcting) -> Response:
    kept = service.correct(upload, number, cell, said)
    return _json(told.Said(machine=kept.machine, value=kept.value, who=kept.who, at=kept.at), 201)


def _json(found: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """One or many models as JSON; written by pydantic, which is much faster than by FastAPI."""
    text = f"[{','.join(m.model_dump_json() for m in found)}]" if isinstance(found, list) else found.model_dump_json()
    return Response(text, status, headers, "application/json")


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})
