"""The pages: plain HTML from the server. Scripts only add to what works without them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi import Path as Place
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from detect import __version__
from detect.errors import DataError
from detect.formats import geojson
from detect.score.record import STATEMENT
from detect.score.report import LINES, in_words
from detect.score.store import rle_of
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.web import told
from detect.web.api import Cell, Number, Serving, Upload, exported
from detect.web.exports import FORMS
from detect.web.forms import posted
from detect.web.guard import PASS
from detect.web.intake import RefusedError
from detect.web.scorers import run_folder
from detect.web.service import MissingError, Service

router = APIRouter(include_in_schema=False)
WHO = "smear_who"  # cookie: the name that a person gave last
_MONTH = 30 * 24 * 3600
_STYLE = Path(__file__).parents[1] / "score" / "templates" / "style.css"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("detect.web"), jinja2.PackageLoader("detect.score")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda v: f"{100 * v:.1f}"
    environment.filters["number"] = lambda v: f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}"
    return environment


_TEMPLATES = _environment()


def _page(request: Request, template: str, code: int = 200, /, **given: Any) -> HTMLResponse:
    common = {
        "statement": STATEMENT,
        "version": __version__,
        "secret": request.state.form_secret,
        "guarded": bool(_service(request).settings.token),
        "who": unquote(request.cookies.get(WHO, ""))[:80],
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(**common, **given), code)


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def refused(request: Request, status: int, what: Mapping[str, Any], headers: Mapping[str, str] | None) -> Response:
    """A page that says why something was not done."""
    answer = _page(request, "refused.html.j2", status, told=what, status=status)
    answer.headers.update(headers or {})
    return answer


def _check_secret(request: Request, fields: Mapping[str, str]) -> None:
    """RefusedError where a form is none of this session's."""
    if not hmac.compare_digest(fields.get("secret", "").encode(), request.state.form_secret.encode()):
        remedy = "open the page anew and send it again"
        raise RefusedError("the form is not one of this session", where="form", remedy=remedy)


@router.get("/style.css")
def style() -> FileResponse:
    """The style of the report, which the pages share."""
    return FileResponse(_STYLE, media_type="text/css", headers={"Cache-Control": "max-age=600"})


@router.get("/")
def home(request: Request, service: Serving) -> Response:
    """Where uploads begin."""
    uploads = [service.about(one) for one in service.records.uploads()]
    cards = [[bundle.card for bundle in opened.bundles] for opened in service.opened]
    titles = [scoring.pipeline.title for scoring in service.settings.scorings]
    drawn = sorted({name for opened in service.opened for name in opened.drawn})
    pipelines = list(zip(titles, cards, strict=True))
    shown = {"settings": service.settings, "uploads": uploads, "pipelines": pipelines, "drawn": drawn}
    return _page(request, "home.html.j2", **shown)


@router.post("/uploads")
async def upload(request: Request, service: Serving) -> Response:
    """An upload from the form of the first page."""
    service.records.check_room()
    async with posted(request, service.settings.fields + 1) as (files, fields):
        _check_secret(request, fields)
        found = await run_in_threadpool(service.add, files, fields.get("title", ""))
    return RedirectResponse(f"/uploads/{found.id}", 303)


@router.post("/samples")
async def samples(request: Request, service: Serving) -> Response:
    """Drawn fields to try."""
    async with posted(request) as (_, fields):
        _check_secret(request, fields)
    found = await run_in_threadpool(service.samples)
    return RedirectResponse(f"/uploads/{found.id}", 303)


@router.get("/uploads/{upload}")
def one(request: Request, service: Serving, upload: Upload) -> Response:
    """How far an upload is, then what it came to."""
    found = service.get(upload)
    if found.state != "done":
        return _page(request, "waiting.html.j2", upload=service.about(found))
    return _page(request, "slide.page.html.j2", **_told_of(service, upload))


@router.get("/uploads/{upload}/print")
def printed(request: Request, service: Serving, upload: Upload) -> Response:
    """The same on paper."""
    return _page(request, "print.html.j2", **_told_of(service, upload))


def _told_of(service: Service, upload: str) -> dict[str, Any]:
    scored = service.scored(upload)
    kinds: dict[str, list[told.CellTold]] = {}
    for cell in scored.cells():
        named = cell.said.get("type")
        white = taxonomy().is_a(cell.label, "WBC") or (named is not None and taxonomy().in_differential(named.value))
        if white and not cell.repeated:
            kinds.setdefault(cell.name, []).append(cell)
    for cells in kinds.values():
        cells.sort(key=lambda c: (c.type_score or 0, c.field, c.cell))
    return {
        "upload": service.about(scored.upload),
        "assessment": service.assessment(scored),
        "fields": scored.fields,
        "kinds": dict(sorted(kinds.items(), key=lambda k: (k[0] == UNIDENTIFIED, -len(k[1]), k[0]))),
        "said": scored.said.get((None, None), {}),
        "pipelines": [s.pipeline.title or s.pipeline.detector for s in service.settings.scorings],
        "error": service.settings.scorings[0].pipeline.error_rate,
        "said_of": said_of,
    }


@router.get("/uploads/{upload}/fields/{number}")
def field(request: Request, service: Serving, upload: Upload, number: Number) -> Response:
    """A field with its cells outlined."""
    scored = service.scored(upload)
    found = service.field(scored, number)
    cells = scored.cells(number)
    order = [f.number for f in scored.fields]
    at = order.index(number)
    names = sorted({c.name for c in cells})
    return _page(
        request,
        "field.html.j2",
        upload=service.about(scored.upload),
        field=found,
        cells=cells,
        layers=sorted({c.label for c in cells}),
        colours={name: f"rgb{LINES.get(name, (120, 0, 120))}" for name in {c.label for c in cells}},
        names=names,
        outlines={c.cell: _outline(c.mask) for c in cells if c.mask is not None},
        before=order[at - 1] if at else None,
        after=order[at + 1] if at + 1 < len(order) else None,
        said_of=said_of,
    )


@router.get("/uploads/{upload}/fields/{number}/cells/{cell}")
def cell(request: Request, service: Serving, upload: Upload, number: Number, cell: Cell) -> Response:
    """One cell: its crop, where the classifier looks, its attributes, cells like it; and a person's word."""
    scored = service.scored(upload)
    found = service.cell(scored, number, cell)
    labels = [label.name for label in taxonomy().labels if label.name != "Cell"]
    return _page(
        request,
        "cell.html.j2",
        upload=service.about(scored.upload),
        field=service.field(scored, number),
        cell=found,
        asked=bool(found.probabilities),
        near=service.near(scored, found),
        labels=[*labels, UNIDENTIFIED],
        said_of=said_of,
    )


@router.post("/uploads/{upload}/corrections")
async def correct_slide(request: Request, service: Serving, upload: Upload) -> Response:
    """A word about the slide."""
    return await _correct(request, service, upload, None, None)


@router.post("/uploads/{upload}/fields/{number}/corrections")
async def correct_field(request: Request, service: Serving, upload: Upload, number: Number) -> Response:
    """A word about a field."""
    return await _correct(request, service, upload, number, None)


@router.post("/uploads/{upload}/fields/{number}/cells/{cell}/corrections")
async def correct_cell(request: Request, service: Serving, upload: Upload, number: Number, cell: Cell) -> Response:
    """A word about a cell."""
    return await _correct(request, service, upload, number, cell)


async def _correct(request: Request, service: Service, upload: str, number: int | None, cell: int | None) -> Response:
    async with posted(request) as (_, fields):
        _check_secret(request, fields)
    given = {name: fields.get(name, "") for name in ("what", "value", "who")}
    if not given["who"].strip():
        raise DataError("nobody's name", where="who", remedy="say who you are: it stands beside the correction")
    try:
        said = told.Correcting(**given)
    except ValueError as error:
        raise DataError("too long", where="form", remedy="shorten it") from error
    await run_in_threadpool(service.correct, upload, number, cell, said)
    place = f"/uploads/{upload}" + (f"/fields/{number}" if number is not None else "")
    answer = RedirectResponse(place + (f"/cells/{cell}" if cell is not None else "") + "#said", 303)
    answer.set_cookie(WHO, _quoted(said.who), max_age=_MONTH, httponly=True, samesite="strict")
    return answer


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text.strip())


@router.post("/uploads/{upload}/delete")
async def delete(request: Request, service: Serving, upload: Upload) -> Response:
    """Delete an upload at once."""
    async with posted(request) as (_, fields):
        _check_secret(request, fields)
    await run_in_threadpool(service.delete, upload)
    return RedirectResponse("/", 303)


@router.get("/uploads/{upload}/report")
def report(service: Serving, upload: Upload) -> Response:
    """The report of the run, as `smear score` writes it."""
    service.scored(upload)
    path = run_folder(service.settings, upload, 0) / "report" / "index.html"
    if not path.is_file():
        raise MissingError("no report", remedy="send the upload again")
    return FileResponse(path, media_type="text/html")


@router.get("/uploads/{upload}/export/{form}")
async def export(service: Serving, upload: Upload, form: Annotated[str, Place(max_length=20)]) -> Response:
    """A file to keep."""
    if form not in FORMS:
        raise MissingError(f"no form '{form}'", remedy=f"one of: {', '.join(FORMS)}")
    return await run_in_threadpool(exported, service, upload, form)


@router.get("/login")
def login(request: Request, to: str = "/") -> Response:
    """Where the token is shown."""
    return _page(request, "login.html.j2", to=_inner(to), wrong=False)


@router.post("/login")
async def enter(request: Request, service: Serving) -> Response:
    """Check a token; the cookie that comes of it ends with the browser."""
    async with posted(request) as (_, fields):
        _check_secret(request, fields)
    to = _inner(fields.get("to", "/"))
    if not hmac.compare_digest(fields.get("token", "").strip().encode(), service.settings.token.encode()):
        return _page(request, "login.html.j2", 403, to=to, wrong=True)
    answer = RedirectResponse(to, 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(PASS, request.app.state.guard.shown(), httponly=True, samesite="strict", secure=secure)
    return answer


def _inner(to: str) -> str:
    """A place on this page and nowhere else."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"


def said_of(cell: told.CellTold) -> str:
    """What the machine says of a cell, in words."""
    if cell.type is None:
        return f"{cell.label}, found with {cell.score:.2f}"
    best = max(cell.probabilities, key=lambda name: cell.probabilities[name], default="")
    return f"{cell.type}: {in_words(cell.type, cell.type_score, best, cell.candidates, cell.flags)}"


def _outline(mask: str) -> str:
    """The outline of a mask as an SVG path."""
    shape = geojson.outline(rle_of(mask))
    rings = shape["coordinates"] if shape["type"] == "Polygon" else [r for part in shape["coordinates"] for r in part]
    return " ".join("M" + " L".join(f"{x:g} {y:g}" for x, y in ring) + " Z" for ring in rings)
