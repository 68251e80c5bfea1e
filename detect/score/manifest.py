"""What a lab knows of its slides: a CSV with a row a slide, whose columns reach every table of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field as Key
from pydantic import ValidationError

from detect.config import Settings
from detect.errors import DataError
from detect.images.magnification import RED_CELL_UM, Scale, given

COLUMNS = ("patient", "specimen", "stain")  # of every table, empty where nothing is known
_LEAST_UM, _MOST_UM = RED_CELL_UM / 2000, RED_CELL_UM / 4  # a red cell of 4 to 2,000 pixels


class Specimen(Settings):
    """What is known of one slide. scale: micrometres a pixel, in place of measuring."""

    patient: str | None = None
    specimen: str | None = None
    stain: str | None = None
    scale: float | None = Key(None, ge=_LEAST_UM, le=_MOST_UM)


@dataclass(frozen=True)
class Manifest:
    """Specimens by the names of their slides."""

    slides: Mapping[str, Specimen]

    def of(self, slide: str) -> Specimen:
        """What is known of a slide; nothing of one that it does not name."""
        return self.slides.get(slide, _UNKNOWN)

    def scale(self, slide: str) -> Scale | None:
        """How large its cells are, where the manifest says so."""
        return given(mpp=self.of(slide).scale)

    def columns(self, slides: Iterable[str]) -> dict[str, list[str | None]]:
        """`COLUMNS` for rows of these slides."""
        known = [self.of(name) for name in slides]
        return {name: [getattr(one, name) for one in known] for name in COLUMNS}


_UNKNOWN = Specimen()
NONE = Manifest({})


def read(path: Path) -> Manifest:
    """A manifest: CSV, UTF-8, with a column `slide` and any of patient, specimen, stain and scale.

    Raises:
        DataError: with the line, for what cannot be read or is said twice.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(f"cannot be read: {why}", where=str(path), remedy="give a CSV in UTF-8") from error
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    known = ("slide", *Specimen.model_fields)
    names = list(rows.fieldnames or ())
    strange = next((n for n in names if n not in known), None)
    if "slide" not in names or strange is not None:
        what = f"unknown column '{strange}'" if "slide" in names else "no column 'slide'"
        raise DataError(what, where=f"{path}:1", remedy=f"the columns are: {', '.join(known)}")
    out: dict[str, Specimen] = {}
    try:
        for row in rows:
            where = f"{path}:{rows.line_num}"
            slide = (row["slide"] or "").strip()
            if not slide:
                raise DataError("no slide named", where=where, remedy="fill in the column 'slide'")
            if slide in out:
                raise DataError(f"slide '{slide}' for the second time", where=where, remedy="keep one row for each")
            if None in row:
                raise DataError("more values than columns", where=where, remedy="quote values that hold a comma")
            out[slide] = _specimen({k: v.strip() for k, v in row.items() if v and v.strip() and k != "slide"}, where)
    except csv.Error as error:
        raise DataError(str(error), where=f"{path}:{rows.line_num}", remedy="export it again as CSV") from error
    return Manifest(out)


def _specimen(told: Mapping[str, str], where: str) -> Specimen:
    try:
        return Specimen.model_validate(dict(told))
    except ValidationError:
        limits = f"{_LEAST_UM:.4g} to {_MOST_UM:.4g}"
        what = f"scale '{told.get('scale')}' is no number of micrometres a pixel"
        raise DataError(what, where=where, remedy=f"give one from {limits}, or leave it empty") from None
