"""Groups made of pairs: members that are joined, and those joined with them, share a number."""

from __future__ import annotations

from collections.abc import Iterable


class Groups:
    """Members 0..n-1, joined pair by pair; a group's number is the first position in it."""

    def __init__(self, n: int, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._parent = list(range(n))
        for a, b in pairs:
            self.join(a, b)

    def of(self, i: int) -> int:
        """The group of a member."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, a: int, b: int) -> None:
        """Make one group of two members' groups."""
        first, second = sorted((self.of(a), self.of(b)))
        self._parent[second] = first

    def numbers(self) -> list[int]:
        """A group number per member."""
        return [self.of(i) for i in range(len(self._parent))]
