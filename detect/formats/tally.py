"""What a reader met on the way: counted, and each problem with its file and line, so that nothing is lost quietly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from detect.errors import FormatError

Action = Literal["dropped", "repaired", "noted"]


@dataclass(frozen=True)
class Problem:
    """One thing that was not as it should be, and what was done about it.

    Attributes:
        kind: a short name that problems are counted under, such as "repeated box".
        where: file, and line or annotation id.
        detail: the value that was found.
    """

    kind: str
    where: str
    detail: str
    action: Action

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} ({self.detail}), {self.action}"


@dataclass
class Tally:
    """Counts of what was read, and the problems in the order they were met.

    Args:
        strict: dropping anything raises FormatError instead.
    """

    strict: bool = False
    read: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, where: str, detail: str, action: Action) -> None:
        """Note a problem; in strict mode a drop ends the reading."""
        problem = Problem(kind, where, detail, action)
        if self.strict and action == "dropped":
            raise FormatError(f"{kind} ({detail})", where=where, remedy="mend the label, or read without --strict")
        self.problems.append(problem)

    def counts(self) -> dict[str, int]:
        """Problems per kind and action, most frequent first."""
        return dict(Counter(f"{p.kind}, {p.action}" for p in self.problems).most_common())

    def lines(self, most: int = 10) -> list[str]:
        """For people: what was read, then the problems, `most` of each kind."""
        out = ["read " + ", ".join(f"{count} {name}" for name, count in self.read.items())]
        shown: Counter[str] = Counter()
        for problem in self.problems:
            shown[problem.kind] += 1
            if shown[problem.kind] <= most:
                out.append(str(problem))
        out += [f"... and {n - most} more: {kind}" for kind, n in shown.items() if n > most]
        return out
