"""Names in label files to one `ClassMap`, the same way for every format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from detect.errors import FormatError
from detect.formats.tally import Tally
from detect.types import ClassMap, Field

ClassNames = Mapping[str, str | None]  # published name to class name; None leaves its cells out


class Labels:
    """Looks up published names, and counts the ones nobody mapped.

    Args:
        classes: the classes of the records.
        class_map: published name to class name, as a dataset card gives it; None leaves its cells out.
    """

    def __init__(self, classes: ClassMap, class_map: ClassNames, tally: Tally) -> None:
        self._index = {name: classes.index(target) for name, target in class_map.items() if target is not None}
        self._left_out = {name for name, target in class_map.items() if target is None}
        self._folded = {name.casefold().strip(): index for name, index in self._index.items()}
        self._tally = tally

    def get(self, name: str, where: str) -> int | None:
        """Index of a published name. A case variant is repaired, an unknown name dropped; both are noted."""
        index = self.find(name)
        if name in self._left_out:
            return None
        if index is None:
            self._tally.add("unknown label", where, f"'{name}', known: {sorted(self._index)}", "dropped")
        elif name not in self._index:
            self._tally.add("case variant of a label", where, f"'{name}'", "repaired")
        return index

    def find(self, name: str) -> int | None:
        """Index of a published name or of its case variant, without a word in the tally."""
        return self._index.get(name, self._folded.get(name.casefold().strip()))


def box_fault(x0: float, y0: float, x1: float, y1: float, width: int, height: int) -> str | None:
    """Why a box cannot be kept, or None: turned inside out or empty, or wholly outside the field."""
    if not (x1 > x0 and y1 > y0):
        return "box without area"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return "box outside the field"
    # What is left within the field, as records hold it: a sliver of 1e-9 pixels is no box any more.
    left, top = np.float32(max(x0, 0)), np.float32(max(y0, 0))
    if not (np.float32(min(x1, width)) > left and np.float32(min(y1, height)) > top):
        return "box without area"
    return None


def size_fault(width: int, height: int, field: Field) -> str | None:
    """Why labels and picture are not of one size, or None; `field` has the size of the one, the numbers the other's."""
    if (width, height) == (field.width, field.height):
        return None
    return "labels ignore the EXIF rotation" if (height, width) == (field.width, field.height) else "wrong size"


def is_finite(value: Any) -> bool:
    """Whether a value is a real number: no text, no truth value, no infinity."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def load_json(path: Path, remedy: str) -> Any:
    """What a JSON file says; FormatError names the file, and the line where there is one.

    A key that stands twice in one object is refused: which of the two values is meant, nobody knows.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        said = dict(pairs)
        if len(said) != len(pairs):
            key = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
            values = " and ".join(str(v)[:40] for k, v in pairs if k == key)
            what = f"the key '{key}' stands twice in one object ({values}), that of id {said.get('id', 'unknown')}"
            raise FormatError(what, where=str(path), remedy="leave one of the two, or " + remedy)
        return said

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=once)
    except FileNotFoundError:
        raise FormatError("no such file", where=str(path), remedy="check the path") from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except json.JSONDecodeError as error:
        raise FormatError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}", remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 text: {error}", where=str(path), remedy=remedy) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets thousands deep
        raise FormatError(f"not valid JSON: {error}", where=str(path), remedy=remedy) from error


def stem_of(identity: str) -> str:
    """The stem of a field's label file in a flat folder: its id with '/' as '__'."""
    return Path(identity).with_suffix("").as_posix().replace("/", "__")


def label_file(folder: Path, field: Field, suffix: str) -> Path:
    """Where the labels of a field lie in a flat folder: under its whole id as we write it, else under its stem."""
    ours = folder / f"{stem_of(field.id)}{suffix}"
    return ours if ours.is_file() else folder / f"{field.path.stem}{suffix}"
