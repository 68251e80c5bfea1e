"""The slides and fields of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from detect.errors import DataError
from detect.images.decode import SUFFIXES, UNREAD
from detect.types import Field

SYSTEM = {"thumbs.db", "desktop.ini", ".ds_store"}


@dataclass(frozen=True)
class Folder:
    """What lies in a folder: fields in the order of their ids, and the files that are no images by their name."""

    root: Path
    fields: tuple[Field, ...]
    others: tuple[str, ...]

    @property
    def slides(self) -> tuple[str, ...]:
        """Slide names, each once, in order."""
        return tuple(sorted({f.slide for f in self.fields}))


def printable(name: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def scan(root: Path) -> Folder:
    """Each sub-folder of `root` is a slide; the images below it, nested or flat, are its fields.

    Images that lie directly in `root` belong to a slide of the root's own name. Linked folders are followed, a
    folder that was seen already is not. Nothing is opened here. Pictures of formats that are not read, and folders that
    cannot be opened, are fields too: they fail later, with a reason.
    """
    if not root.is_dir():
        raise DataError("no such folder", where=str(root), remedy="give a folder with one sub-folder a slide")
    fields: list[Field] = []
    others: list[str] = []
    seen: set[str] = set()

    def closed(error: OSError) -> None:
        """A folder that cannot be opened becomes a field that fails, so that what is in it is not lost silently."""
        place = Path(str(error.filename))
        if place == root:
            raise DataError(f"cannot be read: {error.strerror}", where=str(root), remedy="check its permissions")
        identity = printable(place.relative_to(root).as_posix())
        fields.append(Field(id=identity, slide=identity.split("/", 1)[0], path=place))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=closed):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for name in names:
            path = Path(folder) / name
            identity = printable(path.relative_to(root).as_posix())
            if path.suffix.lower() in SUFFIXES | UNREAD and not name.startswith("._"):
                slide = identity.split("/", 1)[0] if "/" in identity else printable(root.resolve().name)
                fields.append(Field(id=identity, slide=intern(slide), path=path))
            elif name.lower() not in SYSTEM:
                others.append(identity)
    return Folder(root, tuple(sorted(fields, key=lambda f: f.id)), tuple(sorted(others)))
