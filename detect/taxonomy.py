"""The label tree of `annotations/taxonomy.yaml`: canonical names, parents, synonyms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

from pydantic import model_validator

from detect import assets
from detect.config import Settings, load
from detect.errors import ConfigError

UNIDENTIFIED = "unidentified"


class Label(Settings):
    """One label. `nucleated_wbc`: it counts in a differential."""

    name: str
    code: str
    parent: str | None
    synonyms: tuple[str, ...] = ()
    nucleated_wbc: bool = False


class Attribute(Settings):
    """Something that an annotator may say of a cell besides its name."""

    name: str
    kind: Literal["flag", "text"]
    help: str


class Taxonomy(Settings):
    """All labels, parents before their children, and the attributes of a cell."""

    version: int
    labels: tuple[Label, ...]
    attributes: tuple[Attribute, ...] = ()

    @model_validator(mode="after")
    def _is_a_tree(self) -> Taxonomy:
        seen: dict[str, str] = {}
        above: set[str] = set()
        for label in self.labels:
            if label.parent is not None and label.parent not in above:
                known = any(other.name == label.parent for other in self.labels)
                what = f"its parent '{label.parent}' must stand above it" if known else f"no parent '{label.parent}'"
                raise ValueError(f"label '{label.name}': {what}")
            above.add(label.name)
            for word in {_plain(label.name), _plain(label.code), *map(_plain, label.synonyms)}:
                if seen.setdefault(word, label.name) != label.name:
                    raise ValueError(f"'{word}' names both '{seen[word]}' and '{label.name}'")
        return self

    def __contains__(self, name: str) -> bool:
        return any(label.name == name for label in self.labels)

    def get(self, name: str) -> Label:
        """The label of that canonical name."""
        for label in self.labels:
            if label.name == name:
                return label
        raise ConfigError(f"no label '{name}' in the taxonomy", remedy="see annotations/taxonomy.yaml")

    def resolve(self, word: str) -> str | None:
        """The canonical name for a word of another set, or None where it is unknown."""
        plain = _plain(word)
        for label in self.labels:
            if plain in {_plain(label.name), _plain(label.code), *map(_plain, label.synonyms)}:
                return label.name
        return None

    def ancestors(self, name: str) -> tuple[str, ...]:
        """From the parent of `name` up to the root."""
        chain: list[str] = []
        parent = self.get(name).parent
        while parent is not None:
            chain.append(parent)
            parent = self.get(parent).parent
        return tuple(chain)

    def is_a(self, name: str, other: str) -> bool:
        """Whether `name` is `other` or stands below it; a name of a user's own stands below nothing."""
        return name == other or (name in self and other in self.ancestors(name))

    def above(self, names: Sequence[str]) -> str | None:
        """The lowest label that is all of these or stands above them; None where there is none."""
        if not names or any(name not in self for name in names):
            return names[0] if len(set(names)) == 1 else None
        chains = [(name, *self.ancestors(name)) for name in names]
        return next((label for label in chains[0] if all(label in chain for chain in chains)), None)

    def in_differential(self, name: str) -> bool:
        """Whether a white cell of this type counts in a differential: all but smudge cells and their like."""
        return name not in self or self.get(name).nucleated_wbc

    def common(self, name: str, targets: Iterable[str]) -> str | None:
        """The target that `name` is, or stands below; the nearest first."""
        wanted = set(targets)
        return next((n for n in (name, *self.ancestors(name)) if n in wanted), None)


def _plain(word: str) -> str:
    return re.sub(r"[\s_\-]+", "", word).casefold()


@cache
def taxonomy() -> Taxonomy:
    """The packaged taxonomy."""
    return load(Taxonomy, assets.ROOT / "annotations" / "taxonomy.yaml")
