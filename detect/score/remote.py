"""Slides and results at a URL, and who works on copies of them.

A run works on copies below a folder of its own here. Fields come before the run is planned, which reads them anyway; a
worker on another machine fetches what it is about to read, and deletes it afterwards. Every part goes to the URL as
soon as it is written, and before the journal there says that it is done; `run.yaml` goes last. What was begun on one
machine is gone on with on another: a copy whose journal does not go on from the one there is dropped.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from detect.errors import (
    ConfigError,
    DataError,
    ImageError,
    StoppedRunError,
    StoreError,
    UnreachableError,
)
from detect.images.decode import SUFFIXES, UNREAD
from detect.images.folder import Folder, scan
from detect.score.journal import Journal
from detect.score.mirror import CHECK, WAITS, Mirror
from detect.score.record import DRAWN
from detect.score.store import JOURNAL, PLAN, RUN, Store, write_bytes
from detect.types import Field

_RECORDED = 256  # files after which a long copy writes down what is here
_LISTED = "listed.json"  # what the copy of the input was made from
_HERE = ".leader"  # tells a worker that the copy beside it is that of its own run
_FETCHED = "smear-fetched"
_LED = (RUN, PLAN, JOURNAL)
_PARTS = ("cells/", "fields/")


def is_url(text: str) -> bool:
    """Whether a place is told as a URL."""
    return "://" in text


@dataclass(frozen=True)
class Links:
    """Where the folders of a run are copies of; empty for one that is what it seems.

    Attributes:
        token: of this run on the machine that leads it.
    """

    input: str = ""
    output: str = ""
    token: str = ""


NOWHERE = Links()


@dataclass(frozen=True)
class Places:
    """The folders of a run on this machine. work: holds the copies, if there are any; lead: keeps others from it."""

    folder: Path
    out: Path
    links: Links
    work: Path | None = None
    lead: Journal | None = None

    def clear(self) -> None:
        """Delete the copies, once nothing is left to go on with."""
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)
        self.__exit__()

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        if self.lead is not None:
            self.lead.release()


def places(folder: str, out: str, work: Path | None = None) -> Places:
    """Where a run of these works: the folders themselves, or copies below `work` (by default the temporary folder).

    Raises:
        ConfigError: an address with a password in it, or one that is the other, or lies in it.
    """
    links = Links(_tidy(folder), _tidy(out), hashlib.sha256(os.urandom(16)).hexdigest())
    if not links.input and not links.output:
        return Places(Path(folder), Path(out), NOWHERE)
    if links.input and links.output and f"{links.input}/".startswith(f"{links.output}/"):
        raise ConfigError("the output would overwrite the slides", where=links.output, remedy="name another folder")
    name = hashlib.sha256(f"{folder}\0{out}".encode()).hexdigest()[:16]
    home = work or Path(tempfile.gettempdir()) / f"smear-{os.getuid() if hasattr(os, 'getuid') else 'runs'}"
    here = (home / name).resolve()
    try:
        here.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"cannot be written to: {error.strerror}", where=str(here), remedy="give --work") from error
    lead = Journal(here)
    lead.claim()  # until this process ends: copies are made before the run folder is there to be claimed
    for copy in ("input", "."):
        (here / copy).mkdir(exist_ok=True)
        (here / copy / _HERE).write_text(links.token, "utf-8")
    slides = here / "input" / (PurePosixPath(links.input).name or "slides") if links.input else Path(folder)
    return Places(slides, here / "output" if links.output else Path(out), links, here, lead)


def _tidy(place: str) -> str:
    """A URL without what stands behind it; nothing for a folder."""
    if not is_url(place):
        return ""
    try:
        secret = urlsplit(place).password
    except ValueError as error:
        raise ConfigError(f"no address: {error}", where=place) from error
    if secret is not None:
        what = "an address with a password in it would stand in the report"
        raise ConfigError(what, remedy="give credentials by the environment or the store's own configuration")
    return place.rstrip("/")


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file below its folder. Object stores hold any text as a name."""
    path = PurePosixPath(name)
    short = all(len(part.encode()) < 200 for part in path.parts)
    odd = {"\\", "\0"} & set(name) or ".." in path.parts or name.startswith("/")
    return short and path.as_posix() == name and not odd


def bring_all(links: Links, here: Path, stop: Callable[[], bool] = lambda: False) -> Folder:
    """The slides and fields at a URL, all of them here.

    What is here already and has not changed there stays. A field that cannot be had, or has a name that no file can
    have, is one all the same: it fails when it is read.

    Raises:
        DataError: nothing lies there. StoppedRunError: `stop` says so.
    """
    mirror = Mirror(links.input, here)
    own = f"{links.output.removeprefix(links.input + '/')}/" if links.output.startswith(f"{links.input}/") else None
    every = {n: i for n, i in mirror.names().items() if own is None or not n.startswith(own)}
    if not every:
        raise DataError("no such folder, or nothing in it", where=links.input, remedy="check the address")
    listed = {n: i for n, i in every.items() if _is_plain(n) and not _in_the_way(n, every)}
    here.mkdir(parents=True, exist_ok=True)
    record = here.parent / f"{here.name}-{_LISTED}"
    before = _recorded(record)
    kept = {n: i for n, i in listed.items() if before.get(n) == i and (here / n).is_file()}
    for path in [p for p in here.rglob("*") if p.is_file()]:
        if path.relative_to(here).as_posix() not in kept:
            path.unlink()
    wanted = iter([n for n in listed if n not in kept])
    missing: list[str] = []
    while block := list(islice(wanted, _RECORDED)):
        if stop():
            what = "stopped while slides were copied"
            raise StoppedRunError(what, where=links.input, remedy="go on with --resume", asked=True)
        failed = _patiently(mirror, block)
        missing += failed
        kept |= {n: listed[n] for n in block if n not in failed}
        write_bytes(json.dumps(kept).encode(), record)
    _bring_drawn(links.input, here.parent)
    found = scan(here)
    lost = [*missing, *(n for n in every if n not in listed)]
    fields = (*found.fields, *(_lost(n, here) for n in lost if PurePosixPath(n).suffix.lower() in SUFFIXES | UNREAD))
    return replace(found, fields=tuple(sorted(fields, key=lambda f: f.id)))


def _in_the_way(name: str, every: Mapping[str, str]) -> bool:
    """Whether a file is named as a folder of others is; object stores hold both."""
    return any(parent.as_posix() in every for parent in PurePosixPath(name).parents)


def _lost(name: str, here: Path) -> Field:
    """A field that is not here; the place where it would be holds nothing."""
    path = here / ".lost" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{PurePosixPath(name).suffix.lower()}"
    plain = name.encode("unicode_escape").decode()
    return Field(id=plain, slide=plain.split("/", 1)[0] if "/" in plain else here.name, path=path)


def _patiently(mirror: Mirror, names: list[str]) -> list[str]:
    """Fetch files, those that fail again and again; returns those that are not there, or cannot be had.

    Raises:
        DataError: nothing can be reached any more.
    """
    for wait in (*WAITS, None):
        failed = mirror.fetch(names)
        again = [n for n, e in failed.items() if not isinstance(e, (FileNotFoundError, PermissionError))]
        if not again or wait is None:
            break
        time.sleep(wait)
        names = list(failed)
    if again:
        mirror.there()
    return list(failed)


def _recorded(path: Path) -> Mapping[str, str]:
    try:
        told: Mapping[str, str] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def _bring_drawn(url: str, to: Path) -> None:
    """Slides that were drawn must not lose the file that says so. It lies beside them, where not all may look."""
    parent = url.rpartition("/")[0]
    if parent.endswith("/"):
        return
    with suppress(StoreError, ConfigError):
        drawn = Mirror(parent, to).read(DRAWN)
        if drawn is not None:
            (to / DRAWN).write_bytes(drawn)


class Bringer:
    """Has fields at hand on whatever machine a worker runs on."""

    def __init__(self, links: Links, root: Path) -> None:
        self._mirror = Mirror(links.input, root) if links.input and not is_leaders(links, root) else None
        self._here: Path | None = None

    def bring(self, field: Field) -> Field:
        """The field where it can be read: fetched, with what belongs to it, where it is not here.

        Raises:
            ImageError: it cannot be had, from an OSError. DataError: nothing can.
        """
        if self._mirror is None:
            return field
        home, name = self._home(), field.path.relative_to(self._mirror.here).as_posix()
        names = [n for n in (name, *self._beside(name)) if not (home / n).is_file()]
        failed = self._mirror.fetch(names, home)
        if failed:
            error = failed.get(name) or next(iter(failed.values()))
            gone = isinstance(error, FileNotFoundError)
            if not gone:
                self._mirror.there()
            cause = OSError(2 if gone else 5, f"{type(error).__name__}: {error}")
            raise ImageError(f"cannot be fetched: {cause.strerror}", remedy="check the network") from cause
        return replace(field, path=home / name)

    def _home(self) -> Path:
        """A folder of this process alone; what others left that are no more is deleted."""
        if self._here is None:
            for old in Path(tempfile.gettempdir()).glob(f"{_FETCHED}-*"):
                number = old.name.split("-")[2]
                if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
                    shutil.rmtree(old, ignore_errors=True)
            self._here = Path(tempfile.mkdtemp(prefix=f"{_FETCHED}-{os.getpid()}-"))
            atexit.register(shutil.rmtree, self._here, ignore_errors=True)
        return self._here

    def _beside(self, name: str) -> list[str]:
        """The other files of a whole slide of several."""
        assert self._mirror is not None
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        if suffix not in (".dcm", ".vms", ".mrxs"):  # all others are one file
            return []
        folder = f"{path.parent}/" if suffix in (".dcm", ".vms") else f"{path.with_suffix('')}/"
        return [n for n in self._mirror.names() if n.startswith(folder) and n != name]

    def forget(self) -> None:
        """Delete what was fetched for the task that is done: a machine's disk holds one at a time."""
        if self._here is not None:
            for path in self._here.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def there(self) -> bool:
        """Whether fields come from a URL; DataError where it cannot be reached."""
        if self._mirror is not None:
            self._mirror.there()
        return self._mirror is not None


def is_leaders(links: Links, copy: Path) -> bool:
    """Whether this copy is that of the run's leader; other machines may hold one of an earlier run."""
    try:
        return (copy.parent / _HERE).read_text("utf-8") == links.token
    except OSError:
        return False


class Sink:
    """Where results go: the folder itself, or from there to a URL."""

    def __init__(self, links: Links, out: Path) -> None:
        self.out = out
        self._mirror = Mirror(links.output, out) if links.output else None
        self._planned = False

    def check(self, *, overwrite: bool) -> None:
        """StoreError where something lies there that a fresh run may not replace."""
        if self._mirror is None:
            return
        there = self._mirror.names()
        Store.check_ours({n.split("/")[0] for n in there}, self._mirror.url)
        # A run that was killed before it had a record may be begun again.
        if not overwrite and any(n not in (PLAN, JOURNAL) for n in there):
            raise StoreError("the output is not empty", where=self._mirror.url, remedy="name another, or --overwrite")

    def begin(self, *, overwrite: bool) -> None:
        """A fresh run: nothing lies there any more. What says that it was a run goes first."""
        if self._mirror is None:
            return
        self.check(overwrite=overwrite)
        there = self._mirror.names()
        self._mirror.delete(sorted(there, key=lambda n: (n not in (RUN, JOURNAL), n)))

    def again(self) -> None:
        """Have the copy of the run that is there: the one here, if it goes on from that, else what is there alone."""
        if self._mirror is None:
            return
        there, path = self._mirror.names(), self.out / JOURNAL
        told = (self._mirror.read(JOURNAL) if JOURNAL in there else None) or b""
        if RUN in there and (self.out / RUN).is_file() and path.is_file() and path.read_bytes().startswith(told):
            return
        fresh = self.out.with_name(f"{self.out.name}.fetched")
        for folder in (fresh, self.out):
            shutil.rmtree(folder, ignore_errors=True)
        if RUN not in there:
            return
        wanted = [n for n in there if n in _LED or n.startswith(_PARTS)]
        if failed := self._mirror.fetch(wanted, fresh):
            name, why = next(iter(failed.items()))
            raise UnreachableError(f"cannot be fetched: {why}", where=f"{self._mirror.url}/{name}", remedy=CHECK)
        fresh.rename(self.out)

    def wrote(self, number: int, *, leads: bool) -> None:
        """Send a part that was written here; where the leader of the run is elsewhere, none of it stays."""
        if self._mirror is None:
            return
        self._mirror.send(_files(number))
        if not leads:
            for name in _files(number):
                (self.out / name).unlink(missing_ok=True)

    def have(self, number: int, files: Mapping[str, str]) -> None:
        """Fetch a part that another machine wrote.

        Args:
            files: their hashes, see `Store.holds`.
        """
        if self._mirror is None or Store(self.out).holds(number, files):
            return
        failed = self._mirror.fetch(_files(number))
        if failed or not Store(self.out).holds(number, files):
            what = f"part {number} cannot be fetched: {next(iter(failed.values()), 'it is another')}"
            raise UnreachableError(what, where=self._mirror.url, remedy=CHECK)

    def led(self) -> None:
        """Send what the run leads itself by."""
        if self._mirror is None:
            return
        if not self._planned and (self.out / PLAN).is_file():
            self._mirror.send([PLAN])
            self._planned = True
        self._mirror.send([n for n in (JOURNAL, RUN) if (self.out / n).is_file()])

    def finish(self, sent: Collection[int]) -> None:
        """Send everything else; the record, which says that the run is finished, comes last.

        Args:
            sent: numbers of the parts that were sent when they were written.
        """
        if self._mirror is None:
            return
        done = {name for number in sent for name in _files(number)}
        here = sorted(p.relative_to(self.out).as_posix() for p in self.out.rglob("*") if p.is_file())
        self._mirror.delete([n for n in self._mirror.names() if n.startswith(_PARTS) and n not in here])
        self._mirror.send([n for n in here if n not in done and n not in _LED])
        for name in (PLAN, JOURNAL, RUN):
            self._mirror.send([name])


def _files(number: int) -> list[str]:
    """The files of a part."""
    return [Store(Path()).file(folder, number).as_posix() for folder in ("cells", "fields")]
