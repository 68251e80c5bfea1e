"""What the page keeps, in one SQLite file: uploads and how far they are, their pictures, and what people said of them.

Corrections are only ever added: the last one counts, the machine's own value stays beside it, and nothing of them is
deleted with an upload.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["queued", "running", "done", "failed", "gone"]
TRIES = 3  # times that an upload is begun; more are of one that ends whoever works on it

_SCHEMA = """
CREATE TABLE IF NOT EXISTS upload (
    id TEXT PRIMARY KEY, created REAL NOT NULL, state TEXT NOT NULL, title TEXT NOT NULL, fields INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, worker INTEGER, began REAL, ended REAL,
    why TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS upload_state ON upload (state, created);
CREATE TABLE IF NOT EXISTS picture (
    upload TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, PRIMARY KEY (upload, number));
CREATE TABLE IF NOT EXISTS correction (
    id INTEGER PRIMARY KEY, upload TEXT NOT NULL, picture INTEGER, sha256 TEXT NOT NULL, cell INTEGER,
    x0 REAL, y0 REAL, x1 REAL, y1 REAL,
    what TEXT NOT NULL, machine TEXT NOT NULL, value TEXT NOT NULL, who TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS correction_upload ON correction (upload);
CREATE TABLE IF NOT EXISTS looks (
    upload TEXT NOT NULL, picture INTEGER NOT NULL, cell INTEGER NOT NULL, type TEXT NOT NULL, numbers BLOB NOT NULL,
    PRIMARY KEY (upload, picture, cell));
"""


@dataclass(frozen=True)
class Upload:
    """One upload.

    Attributes:
        created, began, ended: seconds since 1970. done: fields scored. tries: times that it was begun.
        why: it failed, in words.
    """

    id: str
    created: float
    state: State
    title: str
    fields: int
    done: int
    tries: int
    worker: int | None
    began: float | None
    ended: float | None
    why: str

    @property
    def over(self) -> bool:
        """Nobody works on it any more."""
        return self.state in ("done", "failed", "gone")


@dataclass(frozen=True)
class Picture:
    """One picture of an upload. name: as it came. file: as it lies in the upload's folder."""

    number: int
    name: str
    file: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Correction:
    """What a person said.

    Attributes:
        picture: its number; None for what is said of the whole slide. cell: its number in the picture.
        box: of the cell, xyxy in pixels of its picture.
        what: "type", or the name of an attribute. machine: what the machine said, as text; empty where it said nothing.
        who: as the person gave it. at: ISO 8601, UTC.
    """

    picture: int | None
    cell: int | None
    what: str
    machine: str
    value: str
    who: str
    at: str
    sha256: str = ""
    box: tuple[float, float, float, float] | None = None


class FullError(Exception):
    """No more uploads are taken for now. wait: seconds after which to ask again."""

    def __init__(self, wait: int) -> None:
        super().__init__("too many uploads wait")
        self.wait = wait


class Records:
    """The file. Every call opens it anew, so that any thread and process may."""

    def __init__(self, path: Path, queue: int) -> None:
        self._path, self._queue = path, queue

    def create(self) -> None:
        """Make the file where there is none."""
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
        self._path.chmod(0o600)

    @contextmanager
    def _open(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = FULL")  # what a person said is on disk when the page says so
            db.execute("PRAGMA secure_delete = ON")  # names that are deleted are overwritten
            if not write:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        finally:
            db.close()

    def check_room(self) -> None:
        """FullError where the queue is full."""
        with self._open() as db:
            self._room(db)

    def _room(self, db: sqlite3.Connection) -> None:
        waiting = db.execute("SELECT count(*) FROM upload WHERE state IN ('queued', 'running')").fetchone()[0]
        if waiting >= self._queue:
            recent = "SELECT began, ended FROM upload WHERE state = 'done' ORDER BY ended DESC LIMIT 20"
            each = db.execute(f"SELECT avg(ended - began) FROM ({recent})").fetchone()[0] or 2.0
            raise FullError(max(1, min(60, round(each * waiting / 4))))

    def add(self, upload: str, title: str, pictures: Sequence[Picture]) -> None:
        """Take an upload into the queue; FullError where that is full."""
        with self._open(write=True) as db:
            self._room(db)
            row = (upload, time.time(), "queued", title, len(pictures))
            db.execute("INSERT INTO upload (id, created, state, title, fields) VALUES (?, ?, ?, ?, ?)", row)
            rows = [(upload, p.number, p.name, p.file, p.sha256, p.width, p.height) for p in pictures]
            db.executemany("INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def take(self, worker: int) -> Upload | None:
        """The upload that has waited longest, for a worker; None where none waits."""
        ask = "SELECT id FROM upload WHERE state = 'queued' ORDER BY created, id LIMIT 1"
        with self._open() as db:  # nobody is kept from writing by a look
            if db.execute(ask).fetchone() is None:
                return None
        with self._open(write=True) as db:
            row = db.execute(ask).fetchone()
            if row is None:
                return None
            told = (worker, time.time(), row["id"])
            change = "state = 'running', worker = ?, began = ?, tries = tries + 1"
            db.execute(f"UPDATE upload SET {change} WHERE id = ?", told)
            return _upload(db.execute("SELECT * FROM upload WHERE id = ?", (row["id"],)).fetchone())

    def progress(self, upload: str, done: int) -> None:
        """So many fields are scored."""
        with self._open(write=True) as db:
            db.execute("UPDATE upload SET done = ? WHERE id = ?", (done, upload))

    def end(self, upload: Upload, state: State, why: str = "") -> bool:
        """It is done, or cannot be; False where its worker has it no more, and nothing is changed."""
        with self._open(write=True) as db:
            told = (state, why, time.time(), upload.id, upload.worker)
            change = "state = ?, why = ?, ended = ?, worker = NULL"
            ask = f"UPDATE upload SET {change} WHERE id = ? AND state = 'running' AND worker = ?"
            return db.execute(ask, told).rowcount == 1

    def running(self) -> list[Upload]:
        """Those that somebody works on."""
        with self._open() as db:
            return [_upload(row) for row in db.execute("SELECT * FROM upload WHERE state = 'running'")]

    def put_back(self, upload: Upload) -> None:
        """It was begun and is to be begun anew, by no fault of its own."""
        with self._open(write=True) as db:
            change = "state = 'queued', worker = NULL, tries = max(0, tries - 1)"
            db.execute(f"UPDATE upload SET {change} WHERE id = ? AND state = 'running'", (upload.id,))

    def again(self, alive: Sequence[int]) -> None:
        """Put uploads back whose worker is none of these: it died. Those that were begun too often are given up."""
        for one in self.running():
            if one.worker in alive:
                continue
            if one.tries >= TRIES:
                self.end(one, "failed", f"ended whoever worked on it, {one.tries} times")
                continue
            with self._open(write=True) as db:
                ask = "UPDATE upload SET state = 'queued', worker = NULL WHERE id = ? AND worker = ?"
                db.execute(ask, (one.id, one.worker))

    def get(self, upload: str) -> Upload | None:
        """An upload; None where there is none."""
        with self._open() as db:
            row = db.execute("SELECT * FROM upload WHERE id = ?", (upload,)).fetchone()
        return None if row is None else _upload(row)

    def uploads(self, most: int = 50) -> list[Upload]:
        """Those that are still there, the latest first."""
        with self._open() as db:
            ask = "SELECT * FROM upload WHERE state != 'gone' ORDER BY created DESC, id LIMIT ?"
            return [_upload(row) for row in db.execute(ask, (most,))]

    def counts(self) -> dict[str, int]:
        """How many uploads are in each state."""
        with self._open() as db:
            return {row[0]: row[1] for row in db.execute("SELECT state, count(*) FROM upload GROUP BY state")}

    def before(self, upload: Upload) -> int:
        """How many wait before it."""
        with self._open() as db:
            ask = "SELECT count(*) FROM upload WHERE state IN ('queued', 'running') AND created < ?"
            return int(db.execute(ask, (upload.created,)).fetchone()[0])

    def older(self, than: float) -> list[str]:
        """Uploads that nobody works on, from before a time, seconds since 1970."""
        with self._open() as db:
            ask = "SELECT id FROM upload WHERE created < ? AND state IN ('done', 'failed')"
            return [row[0] for row in db.execute(ask, (than,))]

    def forget(self, upload: str) -> None:
        """Its pictures are deleted; what was said of them stays."""
        with self._open(write=True) as db:
            db.execute("UPDATE upload SET state = 'gone', title = '', why = '' WHERE id = ?", (upload,))
            db.execute("UPDATE picture SET name = '' WHERE upload = ?", (upload,))
            db.execute("DELETE FROM looks WHERE upload = ?", (upload,))

    def pictures(self, upload: str) -> list[Picture]:
        """Its pictures, in their order."""
        with self._open() as db:
            ask = "SELECT number, name, file, sha256, width, height FROM picture WHERE upload = ? ORDER BY number"
            return [Picture(*row) for row in db.execute(ask, (upload,))]

    def correct(self, upload: str, said: Correction) -> None:
        """Keep what a person said; on disk when this returns."""
        with self._open(write=True) as db:
            box = said.box or (None, None, None, None)
            told = (said.what, said.machine, said.value, said.who, said.at)
            db.execute(
                "INSERT INTO correction (upload, picture, sha256, cell, x0, y0, x1, y1, what, machine, value, who, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (upload, said.picture, said.sha256, said.cell, *box, *told),
            )

    def named(self, upload: str, picture: int, cell: int, kind: str, looks: NDArray[np.float32]) -> None:
        """A person named a cell that looks so."""
        with self._open(write=True) as db:
            row = (upload, picture, cell, kind, looks.astype("<f4").tobytes())
            db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?)", row)

    def looks(self) -> list[tuple[str, int, int, str, NDArray[np.float32]]]:
        """Every cell that a person named and that is still there: upload, picture, cell, type, how it looks."""
        with self._open() as db:
            rows = db.execute("SELECT upload, picture, cell, type, numbers FROM looks ORDER BY 1, 2, 3").fetchall()
        return [(*row[:4], np.frombuffer(row[4], "<f4")) for row in map(tuple, rows)]

    def corrections(self, upload: str | None = None) -> list[tuple[str, Correction]]:
        """What was said of one upload, or of all, in its order, each with its upload."""
        with self._open() as db:
            ask = "SELECT * FROM correction" + (" WHERE upload = ?" if upload is not None else "") + " ORDER BY id"
            rows = db.execute(ask, (upload,) if upload is not None else ()).fetchall()
        return [(row["upload"], _correction(row)) for row in rows]


def _upload(row: sqlite3.Row) -> Upload:
    return Upload(**{key: row[key] for key in Upload.__dataclass_fields__})


def _correction(row: sqlite3.Row) -> Correction:
    box = None if row["x0"] is None else (row["x0"], row["y0"], row["x1"], row["y1"])
    told = {key: row[key] for key in ("picture", "cell", "what", "machine", "value", "who", "at", "sha256")}
    return Correction(**told, box=box)
