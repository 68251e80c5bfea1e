"""A folder that appears whole at the end, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detect.errors import StoreError


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; it becomes `out` when all went well, and goes where something did not.

    Raises:
        StoreError: `out` is there, and not empty.
    """
    out = out.absolute()
    if out.exists() and any(out.iterdir()):
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out.exists():
        out.rmdir()
    partial.rename(out)
