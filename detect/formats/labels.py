"""Names in label files to one `ClassMap`, the same way for every format."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from detect.formats.tally import Tally
from detect.types import ClassMap


class Labels:
    """Looks up published names, and counts the ones nobody mapped.

    Args:
        classes: the classes of the records.
        class_map: published name to class name, as a dataset card gives it.
    """

    def __init__(self, classes: ClassMap, class_map: Mapping[str, str], tally: Tally) -> None:
        self._index = {name: classes.index(target) for name, target in class_map.items()}
        self._folded = {name.casefold().strip(): index for name, index in self._index.items()}
        self._tally = tally

    def get(self, name: str, where: str) -> int | None:
        """Index of a published name. A case variant is repaired, an unknown name dropped; both are noted."""
        if name in self._index:
            return self._index[name]
        index = self._folded.get(name.casefold().strip())
        if index is not None:
            self._tally.add("case variant of a label", where, f"'{name}'", "repaired")
            return index
        self._tally.add("unknown label", where, f"'{name}', known: {sorted(self._index)}", "dropped")
        return None


def box_fault(x0: float, y0: float, x1: float, y1: float, width: int, height: int) -> str | None:
    """Why a box cannot be kept, or None: turned inside out or empty, or wholly outside the field."""
    if not (x1 > x0 and y1 > y0):
        return "box without area"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return "box outside the field"
    return None


def is_finite(value: Any) -> bool:
    """Whether a value is a real number: no text, no truth value, no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
