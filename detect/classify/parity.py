"""Whether the graph of a classifier, segmenter or slide bundle answers in an engine as its weights do in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from detect.bundles.card import WEIGHTS
from detect.bundles.folder import Bundle
from detect.classify.bundled import BundleClassifier
from detect.classify.crops import crop, resize
from detect.detectors.parity import SCORE, Parity
from detect.runtime.base import FRAMEWORK, Engine, EngineSettings, open_graph
from detect.types import CellCrop, Image

PLAIN = "onnxruntime"  # what a bundle without weights is held against
_CELLS = 120  # of a slide that is made up
_SEED = 1


def parity(bundle: Bundle, fields: Sequence[Image], engine: EngineSettings) -> Parity:
    """Compare on the middle third of each field, whatever it shows, a slide model on made-up slides: the answers must
    agree, not be right."""
    if bundle.card.task == "slide":
        return _of_slides(bundle, engine)
    crops = [crop(f, (f.shape[1] / 3, f.shape[0] / 3, f.shape[1] / 1.5, f.shape[0] / 1.5), 0.0) for f in fields]
    if bundle.card.task == "segmenter":
        return _of_parts(bundle, crops, engine)
    own = EngineSettings(FRAMEWORK if _weighs(bundle) else PLAIN)
    told = [BundleClassifier(bundle, e) for e in (own, engine)]
    (a, far), (b, far_too) = (c.told(crops) for c in told)
    p, q = (c.predict(crops) for c in told)
    # Distances have no upper end: they are held against their size.
    apart = np.abs(far - far_too) / np.maximum(np.abs(far), 1)
    changed = int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    return _parity(engine, len(fields), len(crops), changed, max(_most(p - q), _most(apart)))


def _of_parts(bundle: Bundle, crops: Sequence[CellCrop], engine: EngineSettings) -> Parity:
    assert bundle.card.segmenter is not None
    batch = np.stack([resize(c.pixels, bundle.card.segmenter.image_size) for c in crops])
    (got,) = open_graph(bundle.graph, engine).run(batch)
    if _weighs(bundle):
        from detect.classify.segmenter_bundle import reference  # needs the extra `train`

        expected = reference(bundle)(batch)
    else:
        (expected,) = _plain(bundle).run(batch)
    return _parity(engine, len(crops), len(crops), 0, _most(got - expected))


def _of_slides(bundle: Bundle, engine: EngineSettings) -> Parity:
    assert bundle.card.slide is not None
    rng = np.random.default_rng(_SEED)
    n = len(bundle.card.slide.inputs)
    bags = [rng.dirichlet(np.full(n, 0.3), _CELLS).astype(np.float32) for _ in range(10)]
    graph = open_graph(bundle.graph, engine)
    expected: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]
    if _weighs(bundle):
        from detect.classify.slides import reference  # needs the extra `train`

        expected = reference(bundle)
    else:
        expected = _plain(bundle).run
    most, changed = 0.0, 0
    for bag in bags:
        (scores, weights), (known, known_weights) = graph.run(bag), expected(bag)
        known, known_weights = np.reshape(known, -1), np.reshape(known_weights, -1)
        most = max(most, _most(np.reshape(scores, -1) - known), _most(np.reshape(weights, -1) - known_weights))
        changed += int(np.argmax(scores) != np.argmax(known))
    return _parity(engine, len(bags), len(bags), changed, most)


def _weighs(bundle: Bundle) -> bool:
    return WEIGHTS in bundle.card.files


def _plain(bundle: Bundle) -> Engine:
    return open_graph(bundle.graph, EngineSettings(PLAIN))


def _most(values: NDArray[np.floating]) -> float:
    return float(np.abs(values).max(initial=0))


def _parity(engine: EngineSettings, fields: int, cells: int, changed: int, most: float) -> Parity:
    chosen = engine.resolved()
    apart = cells if most > SCORE else 0  # all of them for all that is known: only the greatest gap is
    return Parity(f"{chosen.name} {chosen.precision}", fields, cells, changed, apart, 0.0, most)
