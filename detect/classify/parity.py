"""Whether the graph of a classifier, segmenter or slide bundle answers in an engine as its weights do in torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detect.bundles.folder import Bundle
from detect.classify.bundled import BundleClassifier
from detect.classify.crops import crop, resize
from detect.detectors.parity import Parity
from detect.runtime.base import FRAMEWORK, EngineSettings, open_graph
from detect.types import CellCrop, Image

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
    told = [BundleClassifier(bundle, e) for e in (EngineSettings(FRAMEWORK), engine)]
    (a, far), (b, far_too) = (c.told(crops) for c in told)
    p, q = (c.predict(crops) for c in told)
    # Distances have no upper end: they are held against their size.
    apart = np.abs(far - far_too) / np.maximum(np.abs(far), 1)
    changed = int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    return _parity(engine, len(fields), len(crops), changed, max(_most(p - q), _most(apart)))


def _of_parts(bundle: Bundle, crops: Sequence[CellCrop], engine: EngineSettings) -> Parity:
    from detect.classify.segmenter_bundle import reference  # needs the extra `train`

    assert bundle.card.segmenter is not None
    batch = np.stack([resize(c.pixels, bundle.card.segmenter.image_size) for c in crops])
    (got,) = open_graph(bundle.graph, engine).run(batch)
    expected = reference(bundle)(batch)
    return _parity(engine, len(crops), len(crops), 0, _most(got - expected))


def _of_slides(bundle: Bundle, engine: EngineSettings) -> Parity:
    from detect.classify.slides import reference  # needs the extra `train`

    assert bundle.card.slide is not None
    rng = np.random.default_rng(_SEED)
    n = len(bundle.card.slide.inputs)
    bags = [rng.dirichlet(np.full(n, 0.3), _CELLS).astype(np.float32) for _ in range(10)]
    graph, expected = open_graph(bundle.graph, engine), reference(bundle)
    most, changed = 0.0, 0
    for bag in bags:
        (scores, weights), (known, known_weights) = graph.run(bag), expected(bag)
        most = max(most, _most(np.reshape(scores, -1) - known), _most(np.reshape(weights, -1) - known_weights))
        changed += int(np.argmax(scores) != np.argmax(known))
    return _parity(engine, len(bags), len(bags), changed, most)


def _most(values: NDArray[np.floating]) -> float:
    return float(np.abs(values).max(initial=0))


def _parity(engine: EngineSettings, fields: int, cells: int, changed: int, most: float) -> Parity:
    chosen = engine.resolved()
    return Parity(f"{chosen.name} {chosen.precision}", fields, cells, changed, 0.0, most)
