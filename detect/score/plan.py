"""What a run is going to do, written down before it begins: every field with its size and what it holds, and the part
of the results that it goes into. Whatever happens in between, the run ends with a row for each of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from detect.errors import StoppedRunError, StoreError
from detect.images import decode, wholeslide
from detect.images.folder import Folder
from detect.score import schema
from detect.score.store import PLAN, write_table
from detect.types import Field

_LARGEST_PART, _PARTS = 256, 64  # fields of a part at most; parts of a run at least, where there are enough fields
_STOPPING = 32  # fields of a part where a slide ends once enough cells are counted: what is found too much is small
_READERS, _AT_ONCE = 4, 2048  # threads that hash files; files that wait for them, so that memory does not
_SAMPLE = 2**24  # bytes at either end of a large file that its hash is of


@dataclass(frozen=True, slots=True)
class Planned:
    """One field of a run.

    Attributes:
        part: of the results. size: bytes of the file. hash: SHA-256 of it; empty where it could not be read.
        reason: why it is left out; empty where it is not.
    """

    part: int
    field: Field
    size: int
    hash: str
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """The fields of a run in the order of their ids, and the input folder that they lie in."""

    root: Path
    rows: tuple[Planned, ...]

    @property
    def parts(self) -> Iterator[tuple[int, tuple[Planned, ...]]]:
        """Each part with its fields."""
        for number, rows in groupby(self.rows, lambda row: row.part):
            yield number, tuple(rows)

    def write(self, out: Path) -> None:
        """`plan.parquet`, whole or not at all."""
        columns: dict[str, Iterator[Any]] = {
            "part": (r.part for r in self.rows),
            "slide": (r.field.slide for r in self.rows),
            "field": (r.field.id for r in self.rows),
            "path": (os.fsencode(r.field.path.relative_to(self.root)) for r in self.rows),
            "region": (r.field.region for r in self.rows),
            "bytes": (r.size for r in self.rows),
            "hash": (r.hash for r in self.rows),
            "reason": (r.reason for r in self.rows),
        }
        arrays = [pa.array(columns[one.name], one.type) for one in schema.PLAN]  # without a list of each first
        write_table(pa.Table.from_arrays(arrays, schema=schema.PLAN), out / PLAN)
        del arrays
        pa.default_memory_pool().release_unused()  # whoever leads a night of fields holds no more than it needs


def read(out: Path, root: Path) -> Plan:
    """The plan of a run folder; StoreError where it has none that can be read."""
    try:
        table = pq.read_table(out / PLAN)
        columns = [table.column(name).to_pylist() for name in schema.PLAN.names]
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise StoreError(
            f"no plan of a run: {error}", where=str(out / PLAN), remedy="begin again with --overwrite"
        ) from error
    rows = []
    for part, slide, name, path, region, size, content, reason in zip(*columns, strict=True):
        place = tuple(region) if region is not None else None
        rows.append(Planned(part, Field(name, slide, root / os.fsdecode(path), region=place), size, content, reason))
    return Plan(root, tuple(rows))


def make(
    found: Folder, *, batch: int, part: int = 0, stopping: bool = False, stop: Callable[[], bool] = lambda: False
) -> Plan:
    """Plan a run.

    A picture that is there twice in one slide, byte for byte, is looked at once: its cells must not count twice.

    Args:
        batch: fields of one batch. part: fields of a part; 0 takes what suits their number, in whole batches.
        stopping: slides may end before their last field, so no part holds fields of two.
        stop: asked now and then; StoppedRunError once it says so.
    """
    size = part or batch * -(-min(_LARGEST_PART, -(-len(found.fields) // _PARTS)) // batch)
    numbers = _numbers(found.fields, min(size, max(batch, _STOPPING)) if stopping else size, stopping)
    seen: dict[tuple[str, str], str] = {}
    rows = []
    for number, (field, (length, content)) in zip(numbers, _all_held(found.fields, stop), strict=True):
        alone = bool(content) and field.region is None
        first = seen.setdefault((field.slide, content), field.id) if alone else field.id
        reason = "" if first == field.id else f"the same picture as {first}"
        rows.append(Planned(number, field, length, content, reason))
    if stop():
        what = "stopped while the run was planned"
        raise StoppedRunError(what, where=str(found.root), remedy="begin it again", asked=True)
    return Plan(found.root, tuple(rows))


def _all_held(fields: Sequence[Field], stop: Callable[[], bool]) -> Iterator[tuple[Field, tuple[int, str]]]:
    """Each field with the bytes of its file and their hash; once it is to stop, with none."""

    def unless_stopped(field: Field) -> tuple[int, str]:
        return (0, "") if stop() else _held(field.path, is_slide(field))

    with ThreadPoolExecutor(_READERS) as pool:
        for begin in range(0, len(fields), _AT_ONCE):
            some = fields[begin : begin + _AT_ONCE]
            files = {id(field.path): field for field in some}  # regions of a slide share theirs
            held = dict(zip(files, pool.map(unless_stopped, files.values()), strict=True))
            yield from ((field, held[id(field.path)]) for field in some)


def _numbers(fields: Sequence[Field], size: int, apart: bool) -> Iterator[int]:
    """The part of each field."""
    groups: Iterable[Sequence[Field]] = [fields]
    if apart:
        groups = [tuple(own) for _, own in groupby(fields, lambda f: f.slide)]
    number = -1
    for group in groups:
        for i in range(len(group)):
            number += i % size == 0
            yield number


def is_slide(field: Field) -> bool:
    """Whether a field is a region of a whole slide, or a whole slide that could not be taken apart."""
    return field.region is not None or field.path.suffix.lower() in wholeslide.ALWAYS


def _held(path: Path, slide: bool) -> tuple[int, str]:
    """Bytes of a file, and their hash; (0, "") where it cannot be read, which scoring tells of."""
    try:
        if slide:
            return path.stat().st_size, slide_hash(path)
        if not path.is_file() or path.suffix.lower() in decode.UNREAD:
            return 0, ""
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), content
    except (OSError, ValueError):
        return 0, ""


def slide_hash(path: Path) -> str:
    """SHA-256 of the size of a whole slide, and of its beginning and its end: they hold gigabytes.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    about = path.stat()
    return _slide_hash(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _slide_hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        first = file.read(_SAMPLE)
        file.seek(max(0, size - _SAMPLE))
        return content_hash(str(size).encode() + first + file.read(_SAMPLE))


def content_hash(data: bytes) -> str:
    """SHA-256 of what a file holds."""
    return hashlib.sha256(data).hexdigest()
