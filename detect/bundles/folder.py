"""Reading and writing bundle folders. Hashes are checked whenever one is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from detect import assets
from detect.bundles.card import CARD, GRAPH, GRAPH_INT8, MEMBERS, WEIGHTS, Card, DetectorGraph, Metric, PrecisionCheck
from detect.config import dump, load
from detect.errors import BundleError
from detect.taxonomy import taxonomy

P = TypeVar("P", bound=str)

_OWN = (WEIGHTS, GRAPH, GRAPH_INT8)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files match its card.

    Attributes:
        hash: SHA-256 of the card, which holds the hashes of the other files: it stands for the whole bundle.
    """

    card: Card
    path: Path
    hash: str

    @property
    def model(self) -> str:
        """SHA-256 of what answers: graph, else weights, and all that the card says of how it is asked and heard.

        Other than `hash` it stays the same where figures or words are written to the card, or the weights are packed.
        """
        card = self.card.model_dump(mode="json")
        told = {k: card[k] for k in ("classes", "detector", "classifier", "segmenter", "slide", "architecture")}
        members = [open_bundle((self.path / name).parent).model for name in beside(self.card)]
        members += [open_bundle(p.parent).model for p in sorted(self.path.glob(f"{MEMBERS}/*/{CARD}"))]
        kept = self.card.files.get(GRAPH) or self.card.files.get(WEIGHTS)
        return hashlib.sha256(json.dumps([told, kept, members], sort_keys=True).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """The card's classes, in its order, by our names; one that is no label of ours keeps its own."""
        return tuple(taxonomy().resolve(name) or name for name in self.card.classes)

    @property
    def thresholds(self) -> dict[str, float]:
        """Of a detector, least score per class, by our names."""
        return {name: self.detector.thresholds[c] for name, c in zip(self.names, self.card.classes, strict=True)}

    def at(self, image_size: int | None) -> Bundle:
        """The same network, shown fields in another size than it learnt from: fewer pixels take less time.

        Its figures, its thresholds and what cheaper arithmetic loses were measured in its own size; measure it anew in
        the other one with `smear evaluate detector --image-size`.

        Args:
            image_size: pixels of the longer side that a field is resized to; None leaves the bundle as it is. The
                diameter of a red cell in the input changes with it.

        Raises:
            BundleError: not a detector, or one whose input is fixed, such as an ensemble's.
        """
        told = self.detector
        if image_size is None or image_size == told.image_size:
            return self
        where, own = str(self.path), f"its input is of {told.image_size} px"
        if told.square or self.card.architecture.get("family") in ("classical", "ensemble"):
            raise BundleError(f"{own}, and is not to be changed", where=where, remedy="leave --image-size out")
        if image_size < told.stride or image_size % told.stride:
            near = max(told.stride, round(image_size / told.stride) * told.stride)
            what = f"an input of {image_size} px is no multiple of {told.stride}"
            raise BundleError(what, where=where, remedy=f"take {near}; {own}")
        changed: dict[str, object] = {"image_size": image_size}
        if told.red_cell_px is not None:
            changed["red_cell_px"] = told.red_cell_px * image_size / told.image_size
        detector = told.model_copy(update=changed)
        return replace(self, card=self.card.model_copy(update={"detector": detector}))

    def check_names(self) -> None:
        """BundleError where the names of its classes, or of a slide's inputs, may mean other than ours."""
        own, ours = self.card.taxonomy, taxonomy().version
        names = self.names if self.card.slide is None else self.card.slide.inputs
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            both = [c for c, n in zip(self.card.classes, names, strict=True) if n == twice]
            what = f"its classes {' and '.join(both)} are both '{twice}' here"
            raise BundleError(what, where=str(self.path), remedy="train it with one name for each type")
        if own > ours:
            what = f"its classes are of version {own} of the taxonomy, ours are of {ours}"
            raise BundleError(what, where=str(self.path), remedy="use the smear-detect that made it, or a newer one")
        strange = next((n for n in names if n not in taxonomy()), None)
        if own < ours and strange is not None:
            what = f"its classes are of version {own} of the taxonomy, and '{strange}' is no label of ours, {ours}"
            raise BundleError(what, where=str(self.path), remedy="export it again from its run")

    @property
    def detector(self) -> DetectorGraph:
        """How the detector takes fields; BundleError where it is none."""
        if self.card.detector is None:
            raise BundleError("not a detector", where=str(self.path), remedy="name a detector bundle")
        return self.card.detector

    @property
    def graph(self) -> Path:
        """The ONNX graph; BundleError where the family cannot be exported."""
        if GRAPH not in self.card.files:
            raise BundleError(
                f"no graph: {self.card.architecture.get('name')} is not exported",
                where=str(self.path),
                remedy="run it with --runtime torch",
            )
        return self.path / GRAPH

    def graph_in(self, precision: str) -> Path:
        """The ONNX graph for an arithmetic; BundleError where there is none."""
        if precision != "int8":
            return self.graph
        if GRAPH_INT8 not in self.card.files:
            lost = next((c.loss for c in self.card.precisions if c.precision == "int8"), None)
            why = "was not made" if lost is None else f"lost {lost} points of mAP50-95, so it was not kept"
            raise BundleError(f"the int8 graph {why}", where=str(self.path), remedy="use --precision fp32 or bf16")
        return self.path / GRAPH_INT8

    def check_offered(self, precision: str, engine: str = "") -> None:
        """BundleError where scoring with an arithmetic would lose too much, or nobody measured what it loses."""
        if precision not in ("bf16", "int8") or self.card.training is None:
            return
        checks = [c for c in self.card.precisions if c.precision == precision]
        check = min(checks, key=lambda c: c.engine != engine, default=None)  # of this engine, where it was measured
        if check is None:
            what = f"what {precision} loses was not measured"
            raise BundleError(
                what, where=str(self.path), remedy="measure it with 'smear bundle precisions', or use fp32"
            )
        if not check.offered:
            what = f"{precision} loses {check.loss} points of mAP50-95 on {check.part} of {check.data}"
            raise BundleError(what, where=str(self.path), remedy="use fp32")

    def first_offered(self, precisions: Iterable[P], engine: str) -> P | None:
        """The first of some arithmetics that the card offers with an engine; None where it offers none of them."""
        offered = {c.precision for c in self.card.precisions if c.offered and c.engine == engine}
        offered -= {"int8"} if GRAPH_INT8 not in self.card.files else set()
        return next((p for p in precisions if p in offered), None)

    @property
    def weights(self) -> Path:
        """The weights for the training framework; BundleError where only the graph is in the bundle."""
        if WEIGHTS not in self.card.files:
            raise BundleError(
                "no weights, only the graph",
                where=str(self.path),
                remedy="run it with --runtime onnxruntime or openvino; to train on, take a bundle with weights",
            )
        return self.path / WEIGHTS


def open_bundle(given: str | Path, task: str | None = None) -> Bundle:
    """A bundle by folder, or a released one by name.

    Args:
        task: as on a card, such as "detector"; BundleError where the bundle is for something else.

    Raises:
        BundleError: a file is missing, or was altered since the card was written.
    """
    path = assets.bundle(given)
    if not (path / CARD).is_file():
        raise BundleError(f"no {CARD}", where=str(path), remedy="make one with 'smear bundle export'")
    card = load(Card, path / CARD)
    if task is not None and card.task != task:
        raise BundleError(f"this is a {card.task}, not a {task}", where=str(path), remedy=f"name a {task} bundle")
    check_hashes(card, path)
    return Bundle(card, path, sha256(path / CARD))


def beside(card: Card) -> tuple[str, ...]:
    """The cards of members that lie beside a bundle of several and not in it, as seen from its folder."""
    config = card.architecture.get("config")
    if not isinstance(config, Mapping) or not config.get("beside"):
        return ()
    return tuple(f"../{name}/{CARD}" for name in config["members"])


def check_hashes(card: Card, path: Path, *, but: str | None = None) -> None:
    """BundleError where a file is missing or altered, but for one that was just made anew."""
    if card.training is not None and not {WEIGHTS, GRAPH} & set(card.files):
        raise BundleError(f"the card gives no hash for {WEIGHTS}", where=str(path / CARD), remedy="export it again")
    for name in _OWN:
        if name != but and name not in card.files and (path / name).exists():
            raise BundleError(f"the card gives no hash for {name}", where=str(path / CARD), remedy="export it again")
    for member in path.glob(f"{MEMBERS}/*/{CARD}"):
        if member.relative_to(path).as_posix() not in card.files:
            raise BundleError(f"the card gives no hash for {member.relative_to(path)}", where=str(path / CARD))
    for name in beside(card):
        if name not in card.files:
            raise BundleError(f"the card gives no hash for {name}", where=str(path / CARD), remedy="fuse them again")
    for name, expected in card.files.items():
        file = path / name
        if name == but:
            continue
        if not file.is_file():
            raise BundleError(f"{name} is missing", where=str(path), remedy="copy the whole bundle folder again")
        found = sha256(file)
        if found != expected:
            what = f"{name} was altered: SHA-256 {found[:12]}, the card says {expected[:12]}"
            raise BundleError(what, where=str(path), remedy="get the bundle again, or export it again")


def with_files(card: Card, path: Path) -> Card:
    """The card with the hashes of a bundle folder's files: enough to ask the bundle, before it is finished."""
    files = {p.name: sha256(p) for p in sorted(path.iterdir()) if p.name in _OWN}
    # A member's card vouches for its own files, and is checked when the member is opened.
    files |= {p.relative_to(path).as_posix(): sha256(p) for p in sorted(path.glob(f"{MEMBERS}/*/{CARD}"))}
    files |= {name: sha256(path / name) for name in beside(card)}
    return card.model_copy(update={"files": files})


def write_card(card: Card, path: Path) -> Card:
    """Hash the files of a bundle folder and write its card, whole or not at all. With it the bundle is there.

    Returns:
        The card as written.
    """
    card = with_files(card, path)
    partial = path / f"{CARD}.partial"
    partial.write_text(dump(card), "utf-8")
    partial.replace(path / CARD)
    return card


def add_metrics(path: Path, metrics: Iterable[Metric]) -> None:
    """Put figures on a card; an older figure of the same name and data gives way."""
    card = load(Card, path / CARD)
    check_hashes(card, path)  # the card is written anew below, and must not bless altered files
    new = tuple(metrics)
    keys = {(m.name, m.data, m.part) for m in new}
    kept = tuple(m for m in card.metrics if (m.name, m.data, m.part) not in keys)
    write_card(card.model_copy(update={"metrics": kept + new}), path)


def add_precisions(path: Path, checks: Iterable[PrecisionCheck]) -> None:
    """Put what cheaper arithmetic loses on a card, and vouch for the int8 graph beside it; older checks give way."""
    card = load(Card, path / CARD)
    check_hashes(card, path, but=GRAPH_INT8)
    new = tuple(checks)
    kept = tuple(c for c in card.precisions if c.precision not in {n.precision for n in new})
    write_card(card.model_copy(update={"precisions": kept + new}), path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
