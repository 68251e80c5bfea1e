"""Hashes of files, of what was learnt from or measured on (pixels and labels alike), and of the code that did it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock

from detect.errors import DataError
from detect.types import Dataset

_HOME = Path(__file__).resolve().parents[2]  # of the package
# What reads sets, recipes and bundles: what these hold is hashed itself, so that the code that reads them is not.
READERS = (
    "detect", "detect.assets", "detect.config", "detect.errors", "detect.bundles.*", "detect.formats.*",
    "detect.data.cards", "detect.data.copies", "detect.data.fingerprint", "detect.data.hashing", "detect.data.joined",
    "detect.data.load", "detect.data.overlap", "detect.data.sources", "detect.data.splits", "detect.data.typed",
)  # fmt: skip


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="get the file again") from error


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over field ids, image files, boxes and labels, in the order of the ids."""
    total = hashlib.sha256()
    for labelled in sorted(dataset.fields, key=lambda f: f.field.id):
        total.update(f"{labelled.field.id}\0{file_hash(labelled.field.path)}\0".encode())
        total.update(labelled.annotations.boxes.tobytes())
        total.update(labelled.annotations.labels.tobytes())
    total.update("\0".join(dataset.classes.names).encode())
    return total.hexdigest()


def code_fingerprint(modules: Iterable[str], libraries: Iterable[str] = (), leave: Iterable[str] = ()) -> str:
    """SHA-256 over what modules of ours do, those that they import included, and over the versions of libraries.

    Comments, docstrings and layout do not count: they change no figure. Modules that are named in a string only, as the
    tables of adapters do, must be given.

    Args:
        leave: modules that do not count, nor what only they import; `detect.formats.*` is all of a package.
    """
    total, seen, waiting = hashlib.sha256(), {n for one in leave for n in _named(one)}, sorted(set(modules))
    told: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _module(name)
        if path is None:
            raise DataError("no such module of ours", where=name, remedy="name it as Python does")
        told[name], imported = _parsed(path.read_text("utf-8"))
        waiting += [n for n in imported if n not in seen and _module(n) is not None]
    for name in sorted(told):
        total.update(f"{name}\0{told[name]}\0".encode())
    for library in sorted(set(libraries)):
        total.update(f"{library} {_version(library)}\0".encode())
    return total.hexdigest()


def _named(name: str) -> list[str]:
    """A module, or a package and all below it."""
    if not name.endswith(".*"):
        return [name]
    home = _HOME.joinpath(*name[:-2].split("."))
    below = (p.relative_to(_HOME).with_suffix("").parts for p in home.rglob("*.py"))
    return [name[:-2], *(".".join(parts).removesuffix(".__init__") for parts in below)]


def _module(name: str) -> Path | None:
    place = _HOME.joinpath(*name.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


_PARSING = Lock()  # Python 3.11 counts the depth of all trees being parsed as one: two threads may both fail


@cache
def _tree(text: str) -> tuple[str, tuple[str, ...]]:
    tree = _bare(ast.parse(text))
    return ast.dump(tree), tuple(_imported(tree))


def _parsed(text: str) -> tuple[str, tuple[str, ...]]:
    """What a module does, as text, and what may be modules of ours that it imports."""
    with _PARSING:
        return _tree(text)


def _imported(tree: ast.Module) -> Iterator[str]:
    """What may be modules of ours that are imported anywhere in one."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        yield from (n for n in names if n.split(".")[0] == "detect")


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
