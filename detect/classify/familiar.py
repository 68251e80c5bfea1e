"""What a model has to know of the cells that it learnt from, to tell which cells are unlike them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detect.classify.answerers import measured_of, seen, takes_measured
from detect.classify.bundled import BATCH
from detect.classify.cells import Cells
from detect.classify.settings import CropSettings


def learnt_cells(
    model: torch.nn.Module, told: Mapping[str, Any], cells: Cells, settings: CropSettings
) -> dict[str, torch.Tensor]:
    """What `Familiar` knows of the cells that were learnt."""
    from sklearn.covariance import ledoit_wolf_shrinkage  # it takes seconds, and most who are here do not come so far

    features = _features(model, told, cells, settings)
    means = np.stack([features[cells.labels == t].mean(axis=0) for t in range(len(cells.types))])
    away = features - means[cells.labels]
    share = float(ledoit_wolf_shrinkage(away, assume_centered=True))
    _, lengths, axes = np.linalg.svd(away, full_matrices=False)
    variances = np.square(lengths) / len(away)
    even = max(float(np.square(away).mean()), 1e-12)  # the mean variance, which all are drawn towards
    seen_to_differ = variances > 1e-9 * even
    made = {
        "means": means,
        "axes": axes[seen_to_differ].T,
        "variances": (1 - share) * variances[seen_to_differ] + share * even,
        "rest": np.array(max(share, 1e-3) * even),
    }
    return {k: torch.from_numpy(np.ascontiguousarray(v, np.float32)) for k, v in made.items()}


def _features(
    model: torch.nn.Module, told: Mapping[str, Any], cells: Cells, settings: CropSettings
) -> NDArray[np.float64]:
    """What the model looks at in the cells that were learnt, (cells, features)."""
    crops = cells.crops(settings.image_size, settings.margin)
    measured = None
    if takes_measured(model):
        from detect.classify import handmade

        measured = torch.from_numpy(handmade.measure(measured_of(told), crops))
    found = []
    with torch.inference_mode():
        for i in range(0, len(crops), BATCH):
            more = None if measured is None else measured[i : i + BATCH]
            found.append(seen(model, torch.from_numpy(crops[i : i + BATCH]), more)[0].numpy())
    return np.concatenate(found).astype(np.float64)
