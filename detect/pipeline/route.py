"""Cells down the taxonomy: each node is asked of the cells that bear one of its labels, and may give them another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from detect.bundles.folder import Bundle
from detect.classify.bundled import Answers, BundleClassifier
from detect.runtime.base import EngineSettings
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.types import CellCrop, Detections, Image

UNFAMILIAR, SYNTHETIC = "unfamiliar", "synthetic"  # flags of a cell
_GENERAL = ("WBC", "Cell")  # what these say of a white cell is nothing that the detector did not say


@dataclass
class Answer:
    """What is known of one cell so far.

    Attributes:
        type: its name as far down the taxonomy as could be told; None where nothing was asked.
        sure: probability of that name, down the whole route; of "unidentified" that of the likeliest type.
        probabilities: of all names that were asked for.
        candidates: the names that it may be, where they are several, or the cell is unfamiliar.
        open: the next node may be asked: by its name, or, where it may be several, if it asks of each of them.
    """

    type: str | None = None
    sure: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    open: bool = True


@dataclass(frozen=True)
class Asked:
    """A bundle and the labels whose cells it is asked of."""

    bundle: Bundle
    ask: tuple[str, ...]


def reach(nodes: Sequence[Asked], labels: Iterable[str]) -> tuple[tuple[Asked, ...], tuple[str, ...]]:
    """Nodes that can be asked, and in words those that never are: nothing gives their labels, or another comes first.

    Args:
        labels: what the detector calls cells.
    """
    given, unreached = set(labels), []
    reached: list[Asked] = []
    for node in nodes:
        if given.isdisjoint(node.ask):
            what = "is left" if any(set(node.ask) & set(r.ask) for r in reached) else "is given"
            unreached.append(f"{node.bundle.card.name} (no {' or '.join(node.ask)} {what} to ask)")
            continue
        reached.append(node)
        names = node.bundle.names
        # Whom it asked bears another name, or stops; or keeps its own, where the answer says no more than that.
        kept = {label for label in node.ask if any(taxonomy().is_a(label, name) for name in names)}
        given = (given - (set(node.ask) - kept)) | set(names)
    return tuple(reached), tuple(unreached)


class Router:
    """The nodes of a pipeline that can be asked, see `reach`."""

    def __init__(self, nodes: Sequence[Asked], engine: EngineSettings, error: float) -> None:
        for node in nodes:
            node.bundle.check_names()
        self._nodes = [_Node(node, BundleClassifier(node.bundle, engine, error=error)) for node in nodes]

    def run(self, fields: Sequence[Image], found: Sequence[Detections]) -> list[dict[int, Answer]]:
        """Per field: cell position to what is known of it. Crops of all fields share batches."""
        out: list[dict[int, Answer]] = [{} for _ in fields]
        for node in self._nodes:
            places: list[tuple[int, int]] = []
            crops: list[CellCrop] = []
            for i, detections in enumerate(found):
                cells = [j for j in range(len(detections)) if node.wants(detections, j, out[i].get(j))]
                pixels = node.classifier.ready(fields[i]) if cells else fields[i]
                masks = detections.masks or (None,) * len(detections)
                places += [(i, j) for j in cells]
                crops += [node.classifier.cut(pixels, box(detections, j), masks[j]) for j in cells]
            answers = node.classifier.answer(crops)
            for k, (i, j) in enumerate(places):
                label = found[i].classes.names[found[i].labels[j]]
                node.tell(out[i].setdefault(j, Answer()), label, answers, k)
        return out


class _Node:
    def __init__(self, node: Asked, classifier: BundleClassifier) -> None:
        self.ask, self.classifier = frozenset(node.ask), classifier
        self.names = node.bundle.names
        self.flags = (SYNTHETIC,) if node.bundle.card.trained_on == "synthetic" else ()

    def wants(self, found: Detections, j: int, answer: Answer | None) -> bool:
        """Whether this is a question about that cell."""
        if answer is None:
            return found.classes.names[found.labels[j]] in self.ask
        if not answer.open:
            return False
        return self.ask.issuperset(answer.candidates) if answer.candidates else answer.type in self.ask

    def tell(self, answer: Answer, label: str, told: Answers, k: int) -> None:
        """Add the k-th answer to what is known of a cell, which the detector calls `label`."""
        before = 1.0 if answer.sure is None else answer.sure
        asked = answer.candidates or (answer.type or label,)
        if answer.candidates:  # whichever of them it is, the question is of it
            before = min(1.0, sum(answer.probabilities[n] for n in answer.candidates))
        shares = {n: before * float(p) for n, p in zip(self.names, told.probabilities[k], strict=True)}
        likely = [n for n, yes in zip(self.names, told.likely[k], strict=True) if yes]
        likely.sort(key=lambda n: -shares[n])
        unfamiliar = bool(told.unfamiliar[k])
        for name in asked:
            if name in shares:
                answer.probabilities.pop(name, None)  # it is shared out anew
        for name, share in shares.items():
            shares[name] = answer.probabilities[name] = answer.probabilities.get(name, 0.0) + share
        answer.flags = tuple(dict.fromkeys((*answer.flags, *((UNFAMILIAR,) if unfamiliar else ()), *self.flags)))
        if told.sure[k]:
            answer.sure = shares[likely[0]]
            # Of a lymphocyte, "a white cell, and no blast" says nothing new.
            held = answer.type or label
            answer.type = held if taxonomy().is_a(held, likely[0]) else likely[0]
            answer.candidates = ()
            return
        if len(likely) > 1 and not unfamiliar:
            # Where all of them are names of a user's own, the taxonomy knows none above them but what was asked.
            known = any(n in taxonomy() for n in likely)
            answer.type, sure = name_of(likely if known else asked), min(1.0, sum(shares[n] for n in likely))
        else:  # nothing like it was learnt, or no type fits: it need not be one of them
            answer.type, sure = name_of((*asked, *self.names)), before
        answer.sure = sure if answer.type != UNIDENTIFIED else max(shares.values())
        answer.candidates = tuple(likely)
        answer.open = len(likely) > 1 and not unfamiliar


def name_of(candidates: Sequence[str]) -> str:
    """The name that a cell has which may be any of these: the lowest label above them all (GUIDE.md, section 5)."""
    name = taxonomy().above(candidates)
    return UNIDENTIFIED if name is None or name in _GENERAL else name


def box(found: Detections, j: int) -> tuple[float, float, float, float]:
    """The box of one cell."""
    x0, y0, x1, y1 = found.boxes[j].tolist()
    return x0, y0, x1, y1
