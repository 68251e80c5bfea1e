"""What can be done with uploads, for the pages and the API alike."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from detect.errors import ConfigError, DataError, SmearError
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.web import exports, intake, pictures, told
from detect.web.reading import Scored, open_all, upload_told
from detect.web.records import Correction, FullError, Records, Upload
from detect.web.scorers import Scorers, delete, input_folder, run_folder
from detect.web.settings import WebSettings

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

NEAR = 8  # cells that are shown beside one
_KEPT = 32  # assessments
SAMPLES = 3  # drawn fields to try
_TITLE = re.compile(r"[\x00-\x1f\x7f]")
_COUNTS = ("WBC", "RBC", "Platelet")


def _claim(settings: WebSettings) -> int | None:
    """Make the private folder, and keep it for this page alone until the process ends.

    Raises:
        ConfigError: it is somebody else's folder, or another page has it.
    """
    data = settings.data
    fresh = not data.exists() or (data.is_dir() and not any(data.iterdir()))
    if not fresh and not settings.database.is_file():
        what = "is no data folder of the page, and not empty"
        raise ConfigError(what, where=str(data), remedy="name a new folder with --data")
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    if fcntl is None:
        return None
    handle = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        remedy = "end it, or name another folder with --data"
        raise ConfigError("another page has this folder", where=str(data), remedy=remedy) from None
    return handle


class MissingError(SmearError):
    """There is no such upload, field or cell, or it has been deleted."""


class EarlyError(SmearError):
    """The upload is not scored yet."""


class Service:
    """Uploads, what was found in them, and what people say of it."""

    def __init__(self, settings: WebSettings) -> None:
        self.settings = settings
        self.opened = open_all(settings)
        self._lock = _claim(settings)
        settings.uploads.mkdir(exist_ok=True)
        shutil.rmtree(settings.scratch, ignore_errors=True)  # of exports that a crash cut short
        settings.scratch.mkdir()
        self.records = Records(settings.database, settings.queue)
        self.records.create()
        self.scorers = Scorers(settings, self.records)
        self._assessed: dict[tuple[str, int], told.Assessment] = {}
        self._typist = pictures.Typist(self.opened[0])

    def add(self, sent: Sequence[tuple[str, BinaryIO]], title: str = "") -> Upload:
        """Take an upload.

        Raises:
            RefusedError: something of it is not taken; nothing of it is kept. FullError: too many wait.
        """
        self.records.check_room()
        upload = secrets.token_urlsafe(12)
        folder = input_folder(self.settings, upload)
        try:
            found = intake.take(sent, folder, self.settings)
            shown = _TITLE.sub(" ", title).strip()[:80] or f"Upload of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            self.records.add(upload, shown, found)
        except BaseException:
            shutil.rmtree(self.settings.uploads / upload, ignore_errors=True)
            raise
        return self.get(upload)

    def samples(self) -> Upload:
        """An upload of drawn fields, which hold no patient's cells."""
        from detect.data.smear.field import one_of_each
        from detect.data.smear.settings import load_smear

        drawn = one_of_each(load_smear("train").at(11.0), SAMPLES, int.from_bytes(secrets.token_bytes(3)), 640)
        sent = [(f"drawn-{i}.png", io.BytesIO(pictures.png(one.pixels))) for i, one in enumerate(drawn, 1)]
        return self.add(sent, "Drawn cells, to try")

    def get(self, upload: str) -> Upload:
        """An upload; MissingError where there is none any more."""
        found = self.records.get(upload)
        if found is None or found.state == "gone":
            raise MissingError("no such upload", remedy="uploads are deleted after a while: send it again")
        return found

    def about(self, upload: Upload) -> told.UploadTold:
        """An upload and how far it is."""
        return upload_told(upload, self.records, self.settings)

    def scored(self, upload: str) -> Scored:
        """What an upload came to; EarlyError where it is not scored."""
        found = self.get(upload)
        if found.state != "done":
            why = f"it could not be scored: {found.why}" if found.state == "failed" else "it is not scored yet"
            raise EarlyError(why, remedy="ask again when its state is 'done'")
        return Scored(found, self.records, self.settings, self.opened)

    def field(self, scored: Scored, number: int) -> told.FieldTold:
        """One field; MissingError where there is none."""
        try:
            return scored.field(number)
        except KeyError:
            remedy = f"they are numbered from 1 to {len(scored.fields)}"
            raise MissingError(f"no field {number}", remedy=remedy) from None

    def cell(self, scored: Scored, number: int, cell: int) -> told.CellTold:
        """One cell; MissingError where there is none."""
        self.field(scored, number)
        found = scored.cell(number, cell)
        if found is None:
            raise MissingError(f"no cell {cell} in field {number}", remedy="ask for the cells of the field")
        return found

    def assessment(self, scored: Scored) -> told.Assessment:
        """What a slide comes to; kept until somebody says another word of it."""
        key = scored.upload.id, scored.words
        if key not in self._assessed:
            if len(self._assessed) >= _KEPT:
                self._assessed.pop(next(iter(self._assessed)), None)
            self._assessed[key] = scored.assessment()
        return self._assessed[key]

    def delete(self, upload: str) -> None:
        """Delete an upload at once; EarlyError where somebody works on it."""
        if not self.get(upload).over:
            raise EarlyError("it is being scored", remedy="delete it when that is done")
        delete(self.settings, self.records, upload)

    def correct(self, upload: str, number: int | None, cell: int | None, said: told.Correcting) -> Correction:
        """Keep what a person says of a cell, of a field (`cell` None) or of the slide (`number` None too).

        Raises:
            DataError: it is no name, or no number, that could be said of it.
        """
        scored = self.scored(upload)
        who = " ".join(said.who.split())
        if not who:
            raise DataError("nobody's name", where="who", remedy="say who you are: it stands beside the correction")
        place = "cell" if cell is not None else "field" if number is not None else "slide"
        machine, value, box, digest = "", said.value.strip(), None, ""
        if number is not None:
            self.field(scored, number)
            digest = scored.pictures[number].sha256
        if number is not None and cell is not None:
            about = self.cell(scored, number, cell)
            box = about.box
            if said.what == "type" and about.repeated:
                remedy = "name it in the other field, which counts it"
                raise DataError("this cell is counted in another field, which shows it too", remedy=remedy)
            if said.what == "type":
                machine, value = about.type or about.label, _type(value)
            elif said.what in about.attributes:
                machine, value = repr(about.attributes[said.what]), _number(said.what, value)
            else:
                raise _unknown(said.what, place, ["type", *about.attributes])
        else:
            known = _values(scored, number)
            if said.what not in known:
                raise _unknown(said.what, place, list(known))
            machine, value = known[said.what], _number(said.what, value)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        kept = Correction(number, cell, said.what, machine, value, who, now, digest, box)
        self.records.correct(upload, kept)
        if number is not None and cell is not None and said.what == "type":
            with suppress(SmearError, FullError):  # it is kept already; others are found without it
                looks = self._typist.looks(scored, self.cell(scored, number, cell))
                if looks is not None:
                    self.records.named(upload, number, cell, value, looks)
        return kept

    def near(self, scored: Scored, cell: told.CellTold, most: int = NEAR) -> list[told.Near]:
        """Cells that people named and that look most like this one, of every upload that is still there."""
        mine = self._typist.looks(scored, cell)
        if mine is None:
            return []
        found = []
        for upload, number, other, kind, numbers in self.records.looks():
            if (upload, number, other) != (scored.upload.id, cell.field, cell.cell) and numbers.shape == mine.shape:
                apart = float(np.linalg.norm(numbers - mine))
                found.append(told.Near(upload=upload, field=number, cell=other, type=kind, distance=round(apart, 3)))
        return sorted(found, key=lambda n: (n.distance, n.upload, n.field, n.cell))[:most]

    def map(self, scored: Scored, cell: told.CellTold) -> tuple[bytes, str] | None:
        """Where the classifier looks, as JPEG, and for which type; None where none was asked."""
        found = self._typist.map(scored, cell)
        return None if found is None else (pictures.jpeg(found[0]), found[1])

    @contextmanager
    def exported(self, upload: str, form: str) -> Iterator[Path]:
        """What was found, as a file, with what people said of it; the file is there within the context.

        Args:
            form: csv, coco, geojson (a zip, a file a field); review (a zip of the pictures that were read and COCO,
                which `smear review open` takes); corrections (JSON lines, all that was ever said).
        """
        scored = self.scored(upload)
        with tempfile.TemporaryDirectory(dir=self.settings.scratch) as home:
            yield exports.write(form, Path(home), run_folder(self.settings, upload, 0), scored, self.records, upload)


def _type(value: str) -> str:
    """The name of a label; DataError where it is none."""
    name = UNIDENTIFIED if value.casefold() == UNIDENTIFIED else taxonomy().resolve(value)
    if name is None:
        remedy = "a label of annotations/taxonomy.yaml, or unidentified"
        raise DataError(f"'{value[:40]}' is no type of cell", where="value", remedy=remedy)
    return name


def _number(what: str, value: str) -> str:
    """A number as it was written, with a point; DataError where it is none, or could be two."""
    whole = what in _COUNTS
    if not re.fullmatch(r"[0-9]{1,9}" if whole else r"[0-9]{1,9}([.,][0-9]{1,9})?", value):
        remedy = "give a whole number" if whole else "give a number such as 12.5"
        raise DataError(f"'{value[:40]}' is no number of {what}", where="value", remedy=remedy)
    if re.fullmatch(r"[0-9]{1,3},[0-9]{3}", value):
        remedy = "write it with a point, or without a mark for thousands"
        raise DataError(f"'{value}' may be a thousand times another", where="value", remedy=remedy)
    return value.replace(",", ".")


def _unknown(what: str, place: str, known: Sequence[str]) -> DataError:
    return DataError(f"a {place} has no '{what[:40]}'", where="what", remedy=f"one of: {', '.join(known)}")


def _values(scored: Scored, number: int | None) -> Mapping[str, str]:
    """What the machine says of a field or the slide that a person may correct, as text."""
    if number is None:
        slide = scored.slide
        beside = {line.name: line.count for line in slide.beside}
        counts = {"WBC": slide.white} | {name: beside.get(name, 0) for name in _COUNTS[1:]}
        scale = {"scale": "" if slide.scale is None else f"{slide.scale:.1f}"}
        return {name: str(n) for name, n in counts.items()} | scale
    field = scored.field(number)
    told_of = {name: str(field.counts.get(name, 0)) for name in _COUNTS}
    told_of |= {"scale": "" if field.scale is None else f"{field.scale:.1f}"}
    return told_of | {name: f"{value:g}" for name, value in field.quality.items()}
