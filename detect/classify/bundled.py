"""A classifier bundle, run by an engine. No training framework is needed, unless it is the engine asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.bundles.card import ClassifierGraph
from detect.bundles.folder import Bundle
from detect.classify.crops import crop, resize
from detect.errors import BundleError
from detect.evaluate import conformal
from detect.images import preprocess
from detect.runtime.base import FRAMEWORK, EngineSettings, open_graph
from detect.types import CellCrop, ClassMap, Image

# uint8 (n, s, s, 3), and measured features float32 (n, f) if any, to scores before the softmax, float32 (n, types), and
# where the card says so the distance of each cell from what was learnt, float32 (n,)
Graph = Callable[..., tuple[NDArray[np.float32], ...]]
BATCH = 32
ERROR = 0.1  # share of cells whose set of types may lack their own, where nothing else is asked


def sees_pixels(architecture: Mapping[str, Any]) -> bool:
    """Whether a model looks at the crops themselves, and not only at what was measured on them."""
    if architecture.get("kind") == "ensemble":
        return any(sees_pixels(member) for member in architecture["members"])
    return architecture.get("kind") != "hybrid" or bool(architecture["bodies"])


def softmax(scores: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities, rows summing to 1, (n, types)."""
    scaled = np.asarray(scores, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier says of n cells.

    Attributes:
        probabilities: calibrated, float32 (n, types). likely: bool (n, types), the types that the cell may be, at the
            share of errors asked for. unfamiliar: bool (n,), cells unlike those that were learnt.
    """

    probabilities: NDArray[np.float32]
    likely: NDArray[np.bool_]
    unfamiliar: NDArray[np.bool_]

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Cells that may be one type only, and are familiar: bool (n,)."""
        return np.asarray((self.likely.sum(axis=1) == 1) & ~self.unfamiliar)


class BundleClassifier:
    """Types cells.

    Args:
        error: share of cells whose set of types may lack their own.
        graph: something else that runs the bundle's graph, for tests.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: EngineSettings | None = None,
        *,
        error: float = ERROR,
        graph: Graph | None = None,
    ) -> None:
        if bundle.card.classifier is None:
            raise BundleError("not a classifier", where=str(bundle.path), remedy="name a classifier bundle")
        self.settings: ClassifierGraph = bundle.card.classifier
        self.classes = ClassMap(bundle.card.classes)
        self._name = bundle.card.name
        self._pixels = sees_pixels(bundle.card.architecture)
        told = self.settings.calibration
        self._limits = conformal.limits([told.strange[t] for t in self.classes], error) if told is not None else None
        self._run: Graph = graph or _graph(bundle, engine or EngineSettings())

    def ready(self, field: Image) -> Image:
        """The field as cells are cut out of it: preprocessed, where the bundle says so."""
        return preprocess.apply(field, self.settings.preprocess) if self.settings.preprocess else field

    def cut(
        self, field: Image, box: tuple[float, float, float, float], outline: Mapping[str, Any] | None = None
    ) -> CellCrop:
        """The crop of a cell as this model wants it, from a `ready` field.

        Args:
            outline: the cell's mask, RLE in field coordinates, where one is known.
        """
        if self.settings.mask_out == "outline" and outline is None:
            what = "the classifier wants cells on white, by their outline, and the detector draws none"
            raise BundleError(
                what, where=self._name, remedy="use a detector with masks, or a classifier without mask_out"
            )
        return crop(field, box, self.settings.margin, self.settings.mask_out, outline)

    def answer(self, crops: Sequence[CellCrop]) -> Answers:
        """What the cells may be, and which are unlike all that was learnt."""
        scores, distances = self.told(crops)
        probabilities = softmax(scores, self.settings.temperature)
        return Answers(probabilities, self.likely(probabilities), self.unfamiliar(distances))

    def unfamiliar(self, distances: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Cells farther from what was learnt than the card's limit, bool (n,); none where it has no limit."""
        known = self.settings.familiarity
        return np.asarray(distances > known.limit if known is not None else np.zeros(len(distances), bool))

    def likely(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """The types that cells may be, bool (n, types); the likeliest alone where the card has no calibration."""
        if self._limits is not None:
            return conformal.sets(probabilities, self._limits)
        return np.asarray(np.eye(len(self.classes), dtype=bool)[probabilities.argmax(axis=1)])

    def predict(self, crops: Sequence[CellCrop]) -> NDArray[np.float32]:
        """Calibrated probability of each type, float32 (n, types)."""
        return softmax(self.told(crops)[0], self.settings.temperature)

    def told(self, crops: Sequence[CellCrop]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores before temperature and softmax, float32 (n, types), and distances from what was learnt, float32 (n,);
        these are 0 where the graph does not tell them."""
        if not crops:
            return np.zeros((0, len(self.classes)), np.float32), np.zeros(0, np.float32)
        size = self.settings.image_size
        batch = np.stack([resize(c.pixels, size) for c in crops])
        inputs: list[NDArray[np.generic]] = [batch] if self._pixels else []
        if self.settings.handmade:
            from detect.classify import handmade  # needs the extra `train`

            inputs.append(handmade.measure(self.settings.handmade, batch))
        found = [self._run(*(v[i : i + BATCH] for v in inputs)) for i in range(0, len(batch), BATCH)]
        scores = np.concatenate([out[0] for out in found])
        if self.settings.familiarity is None:
            return scores, np.zeros(len(scores), np.float32)
        return scores, np.concatenate([out[1] for out in found])


def _graph(bundle: Bundle, engine: EngineSettings) -> Graph:
    chosen = engine.resolved()
    if chosen.name != FRAMEWORK:
        return open_graph(bundle.graph, chosen).run
    from detect.classify.answerers import reference  # needs the extra `train`

    return reference(bundle.card.architecture, bundle.weights, chosen.device, chosen.precision)
