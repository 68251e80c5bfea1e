"""The row of a field: its cells where they lie in the field, how well it can be read, at which scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from statistics import median

from detect.classify.crops import at_border
from detect.images import wholeslide
from detect.images.magnification import Scale
from detect.images.quality import flags, quality
from detect.pipeline.run import Cells
from detect.score.differential import white_type
from detect.score.reading import Picture
from detect.score.store import CAPPED, UNSURE_SCALE, FieldRecord
from detect.taxonomy import taxonomy
from detect.types import CellRecord, Field

_WHOLE_RED_CELLS = 5  # fewer say nothing of a field's scale
Row = tuple[FieldRecord, tuple[CellRecord, ...]]


def row_beyond(slide: str, field: str, most: int) -> Row:
    """The row of a field after the one with which enough white cells of its slide were counted."""
    why = f"not looked at: {most} white cells were reached in the fields before it"
    return FieldRecord(slide, field, "skipped", why), ()


def white_cells(row: Row) -> int:
    """Nucleated white cells of a field, as the differential counts them."""
    tree = taxonomy()
    return sum(tree.is_a(c.label, "WBC") and tree.in_differential(white_type(c.label, c.type)) for c in row[1])


def shrunk_scale(scale: Scale | None, picture: Picture) -> Scale | None:
    """The scale of a field in the pixels of the picture that was read of it."""
    if scale is None or picture.shrunk == (1, 1):
        return scale
    across, down = picture.shrunk
    return replace(scale, width_px=scale.width_px / across, height_px=scale.height_px / down)


def grown_cells(cells: Cells, picture: Picture) -> Cells:
    """Cells of a picture in pixels of its field."""
    if picture.shrunk == (1, 1):
        return cells
    a, b = picture.shrunk
    out = []
    for cell in cells.records:
        box = (cell.box[0] * a, cell.box[1] * b, cell.box[2] * a, cell.box[3] * b)
        cut = ("border",) if at_border(box, picture.width, picture.height) else ()
        out.append(replace(cell, box=box, flags=(*cut, *(f for f in cell.flags if f != "border"))))
    return Cells(tuple(out), cells.capped)


def own_cells(field: Field, cells: Cells, corner: tuple[int, int]) -> Cells:
    """The cells of a field; of a region those whose centre it holds, or its border, in pixels of the slide."""
    if field.region is None:
        return cells
    (left, top), beyond = corner, wholeslide.BORDER
    x0, y0, x1, y1 = field.region
    own: list[CellRecord] = []
    for record in cells.records:
        a, b, c, d = record.box
        placed = (a + left, b + top, c + left, d + top)
        x, y = (placed[0] + placed[2]) / 2, (placed[1] + placed[3]) / 2
        if x0 - beyond <= x < x1 + beyond and y0 - beyond <= y < y1 + beyond:
            own.append(replace(record, cell=len(own), box=placed))
    return Cells(tuple(own), cells.capped)


def row_of(field: Field, picture: Picture, cells: Cells, scale: Scale | None, *, unsure: bool) -> Row:
    counts: dict[str, int] = {}
    for record in cells.records:
        counts[record.label] = counts.get(record.label, 0) + 1
    left, top = picture.corner
    own = _red_cell_diameter(cells.records)
    diameter = own if own is not None else None if scale is None else scale.diameter_px
    measured = quality(picture.pixels, None if diameter is None else diameter / picture.shrunk[0])
    size = ((CAPPED,) if cells.capped else (), (UNSURE_SCALE,) if unsure and cells.records else ())
    about = FieldRecord(
        field.slide,
        field.id,
        "ok",
        x=left,
        y=top,
        width=picture.width,
        height=picture.height,
        quality=measured,
        scale=own,
        counts=dict(sorted(counts.items())),
        scale_used=None if scale is None else round(scale.diameter_px, 2),
        flags=(*size[0], *size[1], *flags(measured, len(cells.records))),
    )
    return about, cells.records


def _red_cell_diameter(cells: Sequence[CellRecord]) -> float | None:
    """Median of the geometric mean side of red cells that the border did not cut, pixels."""
    sides = [
        sqrt((c.box[2] - c.box[0]) * (c.box[3] - c.box[1]))
        for c in cells
        if c.label == "RBC" and "border" not in c.flags
    ]
    return round(median(sides), 2) if len(sides) >= _WHOLE_RED_CELLS else None
