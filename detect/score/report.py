"""The report: HTML that opens from disk with no network, pictures inside it: one file, or one a slide if they are many.

It is made from the store and the fields' own files, so it can be made again.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from dataclasses import field as made
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detect.bundles.card import Card
from detect.classify.crops import crop
from detect.classify.morphology import criteria
from detect.errors import ImageError, MissingExtraError
from detect.images import decode, wholeslide
from detect.images.folder import Folder
from detect.pipeline.route import UNFAMILIAR
from detect.runtime.base import cores
from detect.score import overlaps
from detect.score.differential import FEW, Slide, white_type
from detect.score.patterns import Called
from detect.score.settings import ScoreSettings
from detect.score.store import CAPPED, Store, write_bytes
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.types import Field, Image

_CROP, _MARGIN, _OVERLAY = 104, 0.25, 900  # pixels of a crop, context around it, pixels of an overlay's longer side
_QUALITY = 82
_ONE_PAGE = 8  # slides that share the first page; of more, each has its own
_LISTED = 1000  # fields that were not read, on the first page
# Outlines by label, RGB: readable on pink and on violet, and apart for colour-blind eyes.
LINES = {"WBC": (0, 60, 200), "RBC": (150, 150, 150), "Platelet": (230, 110, 0)}
_FOUND = ("slide", "field", "cell", "x0", "y0", "x1", "y1", "label", "score")
_COLUMNS = (*_FOUND, "type", "type_score", "probabilities", "candidates", "flags", "attributes")


def in_words(kind: str, sure: float | None, best: str, candidates: Sequence[str], flags: Sequence[str]) -> str:
    """The answer about a cell: how sure it is, or what the cell may be, or that nothing like it was learnt.

    Args:
        sure: None where no classifier was asked. best: the likeliest type.
    """
    if sure is None:
        return kind
    if UNFAMILIAR in flags:
        return f"unfamiliar, nearest {best}"
    if candidates:
        return " or ".join(candidates[:3]) + "?"
    told = ">99 %" if sure > 0.99 else f"{100 * sure:.0f} %"
    return f"like no type, nearest {best}" if kind == UNIDENTIFIED else f"{told} sure"


@dataclass(frozen=True)
class _Cell:
    """What a picture of a cell needs."""

    field: str
    number: int
    box: tuple[float, float, float, float]
    label: str
    score: float
    type: str
    type_score: float | None
    best: str
    candidates: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    attributes: Mapping[str, float] = made(default_factory=dict)
    elsewhere: bool = False  # it is counted in another field, which shows it too

    @property
    def form(self) -> str:
        """Its form in words: size and N:C ratio, and of a lymphoblast FAB's criteria."""
        unit = next((u for u in ("um", "px") if f"diameter {u}" in self.attributes), None)
        words = [] if unit is None else [f"{self.attributes[f'diameter {unit}']:.1f} {unit.replace('um', 'µm')}"]
        words += [f"N:C {self.attributes['N:C']:.1f}"] if "N:C" in self.attributes else []
        return ", ".join(w for w in (*words, criteria(self.type, self.attributes)) if w)

    @property
    def said(self) -> str:
        """See `in_words`."""
        return in_words(self.type, self.type_score, self.best, self.candidates, self.flags)


def write(
    store: Store,
    found: Folder,
    slides: Sequence[Slide],
    called: Sequence[Called],
    cards: Sequence[Card],
    settings: ScoreSettings,
    about: Mapping[str, Any],
) -> None:
    """Write `report/index.html`; with many slides also a page for each, in `report/slides`.

    Slides are taken one after another, so memory does not grow with their number.
    """
    home = store.out / "report"
    paged = len(slides) > _ONE_PAGE
    told = _look_through(store, settings.overlays)
    parts = store.parts_of_slides()
    places = {f.id: f for f in found.fields}
    elsewhere = overlaps.read(store.out)
    mine: dict[str, list[Called]] = {}
    for one in called:
        mine.setdefault(one.slide, []).append(one)

    def view(slide: Slide) -> dict[str, Any]:
        drawn = sorted(field for _, field in told.busiest.get(slide.name, []))
        white, whole = _cells(store, parts.get(slide.name, ()), slide.name, frozenset(drawn), told.origins, elsewhere)
        pictures = _Pictures(places)
        return {
            "slide": slide,
            "gallery": _gallery(slide, white, pictures, settings.gallery),
            "overlays": _overlays(drawn, whole, pictures),
            "called": [_answer(c, white, pictures, settings.gallery) for c in mine.get(slide.name, [])],
            "few": slide.few,
        }

    common = {
        "about": about,
        "image_size": settings.pipeline.image_size,
        "calibrated": any(c.classifier is not None and c.classifier.calibration is not None for c in cards),
        "few": FEW,
        "unidentified": UNIDENTIFIED,
        "paged": paged,
        "legend": {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in LINES.items()},
    }
    pages = [f"slides/{number:05d}.html" for number in range(len(slides))] if paged else []
    _clear(home / "slides")
    if paged:
        template = _environment().get_template("page.html.j2")

        def page(number: int) -> None:
            cv2.setNumThreads(1)
            around = {
                "before": Path(pages[number - 1]).name if number else "",
                "after": Path(pages[number + 1]).name if number + 1 < len(pages) else "",
            }
            failed = told.failed.get(slides[number].name, [])
            text = template.render(view=view(slides[number]), number=1, failed=failed, **around, **common)
            write_bytes(text.encode(), home / pages[number])

        (home / "slides").mkdir()
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(page, range(len(slides))))
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            slides=slides,
            views=[] if paged else [view(slide) for slide in slides],
            pages=pages,
            failed=[f for slide in sorted(told.failed) for f in told.failed[slide]],
            skipped=told.skipped,
            capped=told.capped,
            fields_ok=told.ok,
            white=sum(s.white for s in slides),
            cards=cards,
            names=_names(slides),
            most=_LISTED,
            **common,
        )
    )
    write_bytes(text.encode(), home / "index.html")


@dataclass
class _Told:
    """What the rows of fields come to.

    Attributes:
        busiest: per slide its fields with most white cells, as (count, field). origins: where regions begin.
        failed, skipped, capped: rows of such fields; failed by slide. ok: fields that were read.
    """

    busiest: dict[str, list[tuple[int, str]]]
    origins: dict[str, tuple[int, int]]
    failed: dict[str, list[dict[str, Any]]]
    skipped: list[dict[str, Any]]
    capped: list[dict[str, Any]]
    ok: int = 0


def _look_through(store: Store, overlays: int) -> _Told:
    """One pass over the rows of fields; of each slide at most `overlays` fields are kept."""
    told = _Told({}, {}, {}, [], [])
    for table in store.field_parts(("slide", "field", "status", "reason", "counts", "flags", "x", "y")):
        for f in table.to_pylist():
            if f["status"] == "failed":
                told.failed.setdefault(f["slide"], []).append(f)
            elif f["status"] == "skipped":
                told.skipped.append(f)
            else:
                told.ok += 1
                if CAPPED in f["flags"]:
                    told.capped.append(f)
                if f["x"] or f["y"]:
                    told.origins[f["field"]] = (f["x"], f["y"])
                white = sum(n for label, n in f["counts"] if taxonomy().is_a(label, "WBC"))
                best = told.busiest.setdefault(f["slide"], [])
                best.append((-white, f["field"]))
                best.sort()
                del best[overlays:]
    return told


def _clear(folder: Path) -> None:
    """Take away the pages that an earlier call left."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _names(slides: Sequence[Slide]) -> list[str]:
    """The cells of all differentials, "unidentified" last."""
    found = dict.fromkeys(line.name for slide in slides for line in slide.differential)
    return [*(name for name in found if name != UNIDENTIFIED), UNIDENTIFIED]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("detect.score"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda v: f"{100 * v:.1f}"
    return environment


def _cells(
    store: Store,
    parts: Sequence[int],
    slide: str,
    drawn: frozenset[str],
    origins: Mapping[str, tuple[int, int]],
    elsewhere: Mapping[str, Collection[int]],
) -> tuple[list[_Cell], dict[str, list[_Cell]]]:
    """White cells of a slide that are counted, and every cell of its drawn fields by field.

    Args:
        parts: that hold its cells. origins: where the pictures of regions begin in their slides; boxes come out in
            pixels of the picture. elsewhere: cells that are counted in another field.
    """
    white: list[_Cell] = []
    whole: dict[str, list[_Cell]] = {}
    for number in parts:
        table = store.part(number, _COLUMNS)
        table = table.filter(pc.equal(table.column("slide"), slide))
        named = pc.is_in(table.column("label"), value_set=pa.array(_white_labels(table)))
        wanted = pc.or_(named, pc.is_in(table.column("field"), value_set=pa.array(sorted(drawn), pa.string())))
        for row in _rows(table.filter(wanted), origins):
            cell = replace(row, elsewhere=row.number in elsewhere.get(row.field, ()))
            if taxonomy().is_a(cell.label, "WBC") and not cell.elsewhere:
                white.append(cell)
            if cell.field in drawn:
                whole.setdefault(cell.field, []).append(cell)
    return white, whole


def _white_labels(table: pa.Table) -> list[str]:
    labels = pc.unique(table.column("label")).to_pylist()
    return [label for label in labels if taxonomy().is_a(label, "WBC")] or [""]


def _rows(table: pa.Table, origins: Mapping[str, tuple[int, int]]) -> Iterator[_Cell]:
    for row in zip(*(table.column(c).to_pylist() for c in _COLUMNS), strict=True):
        _, field, number, x0, y0, x1, y1, label, score, kind, sure, chances, candidates, flags, form = row
        best = max(chances, key=lambda pair: pair[1])[0] if chances else ""
        left, top = origins.get(field, (0, 0))
        place, named = (x0 - left, y0 - top, x1 - left, y1 - top), white_type(label, kind)
        told = tuple(candidates), tuple(flags), dict(form)
        yield _Cell(field, number, place, label, score, named, sure, best, *told)


class _Pictures:
    """Fields of one slide, decoded once each while they are needed."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self._last: tuple[str, Image | None] = ("", None)

    def get(self, field: str) -> Image | None:
        """The pixels; None where the file has gone since it was scored."""
        if self._last[0] != field:
            try:
                own = self._fields[field]
                self._last = (field, decode.read(own.path) if own.region is None else wholeslide.read_field(own))
            except (ImageError, MissingExtraError, KeyError):
                self._last = (field, None)
        return self._last[1]


def _gallery(slide: Slide, white: Sequence[_Cell], pictures: _Pictures, most: int) -> list[dict[str, Any]]:
    """White cells by type, from the least to the most sure: the first are the ones to look at."""
    chosen: list[_Cell] = []
    totals: dict[str, int] = {}
    order = [line.name for line in slide.differential] + [line.name for line in slide.beside]
    for name in order:
        mine = sorted((c for c in white if c.type == name), key=lambda c: (c.type_score or 0, c.field, c.number))
        totals[name] = len(mine)
        chosen += _spread(mine, most)
    shots = _shots(chosen, pictures)
    groups = []
    for name in order:
        shown = [
            {"cell": c, "picture": shots[c.field, c.number]}
            for c in chosen
            if c.type == name and (c.field, c.number) in shots
        ]
        if shown:
            groups.append({"name": name, "total": totals[name], "shown": shown})
    return groups


def _answer(called: Called, white: Sequence[_Cell], pictures: _Pictures, most: int) -> dict[str, Any]:
    """An answer about a slide with the pictures of the cells that decided."""
    here = {(c.field, c.number): c for c in white}
    mine = [here[place] for place in called.cells if place in here][:most]
    shots = _shots(mine, pictures)
    shown = [{"cell": c, "picture": shots[c.field, c.number]} for c in mine if (c.field, c.number) in shots]
    return {"called": called, "shown": shown}


def _shots(cells: Sequence[_Cell], pictures: _Pictures) -> dict[tuple[str, int], str]:
    """Pictures of cells, each field read once."""
    out: dict[tuple[str, int], str] = {}
    for c in sorted(cells, key=lambda c: (c.field, c.number)):
        pixels = pictures.get(c.field)
        if pixels is not None:
            cut = crop(pixels, c.box, _MARGIN).pixels
            how = cv2.INTER_AREA if cut.shape[0] > _CROP else cv2.INTER_CUBIC
            out[c.field, c.number] = _jpeg(cv2.resize(cut, (_CROP, _CROP), interpolation=how))
    return out


def _spread(cells: Sequence[_Cell], most: int) -> list[_Cell]:
    """At most `most` cells, evenly from the least to the most sure."""
    if len(cells) <= most:
        return list(cells)
    return [cells[i] for i in np.linspace(0, len(cells) - 1, most).round().astype(int)] if most else []


def _overlays(fields: Sequence[str], cells: Mapping[str, list[_Cell]], pictures: _Pictures) -> list[dict[str, Any]]:
    out = []
    for field in fields:
        pixels = pictures.get(field)
        if pixels is not None:
            mine = cells.get(field, [])
            n = sum(not c.elsewhere for c in mine)
            out.append({"field": field, "picture": _jpeg(draw(pixels, mine)), "n": n, "elsewhere": len(mine) - n})
    return out


def draw(pixels: Image, cells: Sequence[_Cell]) -> Image:
    """A field at the size of an overlay with its cells outlined, white cells named on top of the others. Those that are
    counted in another field have thin lines and say so."""
    scale = _OVERLAY / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    canvas = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for c in sorted(cells, key=lambda c: c.label == "WBC"):
        x0, y0, x1, y1 = (round(v * scale) for v in c.box)
        colour = LINES.get(c.label, (0, 0, 0))
        white = c.label == "WBC"
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, 3 if white and not c.elsewhere else 1, cv2.LINE_AA)
        if white and c.elsewhere:
            _name(canvas, "counted in another field", x0, y0, colour)
        elif white:
            _name(canvas, c.said if c.type == UNIDENTIFIED else f"{c.type}, {c.said}", x0, y0, colour)
    return np.ascontiguousarray(canvas)


def _name(canvas: Image, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.68
    (width, height), base = cv2.getTextSize(text, font, size, 1)
    x = max(0, min(x, canvas.shape[1] - width - 6))
    top = max(0, y - height - base - 5)
    cv2.rectangle(canvas, (x, top), (x + width + 6, top + height + base + 4), colour, -1)
    cv2.putText(canvas, text, (x + 3, top + height + 2), font, size, (255, 255, 255), 1, cv2.LINE_AA)


def _jpeg(pixels: Image) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
