"""Files that are there whole or not at all, whoever else writes them."""

from __future__ import annotations

import os
from pathlib import Path
from threading import get_ident


def beside(path: Path) -> Path:
    """Where a file is written until all of it is there: a name that no other process or thread takes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.partial")


def write_text(path: Path, text: str) -> None:
    """A file whole or not at all, as it is given: several processes may write the same."""
    partial = beside(path)
    partial.write_text(text, "utf-8", newline="")
    partial.replace(path)
