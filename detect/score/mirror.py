"""A folder at a URL, and its copy here: s3://, gs://, smb://, whatever fsspec knows. The only file that imports it.

What passes is tried again, each file is there whole or not at all, and what cannot be reached is said in our words,
since each store has exceptions of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from detect.errors import ConfigError, DataError, MissingExtraError, StoreError, UnreachableError

CHECK = "check the address, the network and the credentials, then go on with --resume: nothing is lost"
WAITS = (1.0, 4.0, 15.0, 60.0)  # seconds before what failed is tried again
_AT_ONCE = 16  # files that come or go side by side
# What stores say of a file that changes with what it holds.
_IDENTITY = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created", "last_write_time")
_OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"}  # a file is there once it is whole

T = TypeVar("T")


class Mirror:
    """A folder at a URL, and its copy here. Names are those of files below it, with '/'."""

    def __init__(self, url: str, here: Path) -> None:
        self.url, self.here = url, here
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError(f"reading {url}", "remote") from error
        with self._named():
            try:
                self.fs, self.root = url_to_fs(url)
            except ImportError as error:
                raise MissingExtraError(f"reading {url} ({error})", "remote") from error
            except ValueError as error:
                if "not known" in str(error):
                    raise ConfigError(f"{error}", where=url, remedy="such as s3://bucket/folder") from error
                raise
        self.root = self.root.rstrip("/")
        kind = self.fs.protocol
        self._objects = bool(_OBJECTS & set((kind,) if isinstance(kind, str) else kind))

    def names(self) -> dict[str, str]:
        """Every file and what tells its content from another; nothing where there is no such folder."""

        def find() -> Mapping[str, Mapping[str, Any]]:
            self.fs.invalidate_cache()
            try:
                found: Mapping[str, Mapping[str, Any]] = self.fs.find(self.root, detail=True)
            except FileNotFoundError:
                return {}
            return found

        out = {}
        for path, about in self._often(find).items():
            name = path.removeprefix(f"{self.root}/")
            # Consoles mark folders by a file of no name.
            if name not in ("", path) and not name.endswith("/") and about.get("type") != "directory":
                out[name] = json.dumps({k: str(about[k]) for k in _IDENTITY if k in about})
        return dict(sorted(out.items()))

    def fetch(self, names: Iterable[str], to: Path | None = None) -> dict[str, Exception]:
        """Copy files here, each whole or not at all; returns those that could not be, and why.

        Raises:
            StoreError: nothing can be written here.
        """
        home, failed = to or self.here, dict[str, Exception]()

        def one(name: str) -> None:
            path = home / name
            partial = path.with_name(f".{hashlib.sha256(f'{name}{os.urandom(8)!r}'.encode()).hexdigest()[:16]}.partial")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.touch()
            except OSError as error:
                raise _full(path, error) from error
            try:
                self.fs.get_file(f"{self.root}/{name}", str(partial))
                partial.replace(path)
            except Exception as error:  # each store has exceptions of its own
                if isinstance(error, OSError) and error.filename in (str(partial), str(path)):
                    raise _full(path, error) from error
                failed[name] = error
            finally:
                partial.unlink(missing_ok=True)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, names))
        return failed

    def send(self, names: Iterable[str]) -> None:
        """Copy files there, each whole or not at all, however often that has to be tried.

        Raises:
            UnreachableError: it fails for longer than a minute; what is here is safe.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda name: self._often(lambda: self._put(name)), names))

    def _put(self, name: str) -> None:
        target = f"{self.root}/{name}"
        if self._objects:
            self.fs.put_file(str(self.here / name), target)
            return
        folder, _, file = target.rpartition("/")
        self.fs.makedirs(folder, exist_ok=True)
        partial = f"{folder}/.{file}.partial"
        self.fs.put_file(str(self.here / name), partial)
        if self.fs.exists(target):
            self.fs.rm_file(target)
        self.fs.mv(partial, target)

    def delete(self, names: Iterable[str]) -> None:
        """Files there."""
        for name in names:
            self._often(lambda name=name: self.fs.rm_file(f"{self.root}/{name}"))  # type: ignore[misc]

    def read(self, name: str) -> bytes | None:
        """What a file there holds; None where there is none."""

        def cat() -> bytes | None:
            try:
                data: bytes = self.fs.cat_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return None
            return data

        return self._often(cat)

    def there(self) -> None:
        """DataError where what lies at the URL cannot be reached."""
        try:
            with self._named():
                self.fs.invalidate_cache()
                found = self.fs.exists(self.root)
        except UnreachableError as error:
            raise DataError(error.problem, where=self.url, remedy=CHECK) from error
        if not found:
            raise DataError("the slides cannot be reached any more", where=self.url, remedy=CHECK)

    def _often(self, do: Callable[[], T]) -> T:
        for wait in (*WAITS, None):
            try:
                with self._named():
                    return do()
            except UnreachableError as error:
                cause = error.__cause__
                if wait is None or isinstance(cause, (FileNotFoundError, PermissionError)):
                    raise
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (ConfigError, DataError, StoreError, MissingExtraError):
            raise
        except Exception as error:  # each store has exceptions of its own
            what = f"cannot be reached: {type(error).__name__}: {error}"
            raise UnreachableError(what, where=self.url, remedy=CHECK) from error


def _full(path: Path, error: OSError) -> StoreError:
    remedy = "make room, or give --work on another disk, then go on with --resume"
    return StoreError(f"cannot be written to: {error.strerror}", where=str(path), remedy=remedy)
