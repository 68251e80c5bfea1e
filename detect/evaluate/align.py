"""A set's labels in a model's classes, through the taxonomy, so that a WBC model can be measured on typed cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detect.errors import DataError
from detect.taxonomy import taxonomy
from detect.types import ClassMap, Dataset


def align(dataset: Dataset, classes: ClassMap) -> Dataset:
    """The same fields under `classes`: each label becomes the model's class that it is, or stands below.

    Cells that the model has no class for are left out, so a detection on one counts as false: an artefact called a
    red cell is a mistake. A class stays exhaustive if every label below it is.

    Raises:
        DataError: not one label of the set is a class of the model.
    """
    tree = taxonomy()
    target = [tree.common(name, classes.names) if name in tree else None for name in dataset.classes.names]
    if not any(target):
        raise DataError(
            f"no label of {dataset.name} ({', '.join(dataset.classes.names)}) is a class of the model "
            f"({', '.join(classes.names)})",
            remedy="evaluate on a set that holds what the model finds",
        )
    index = np.array([classes.index(t) if t else -1 for t in target], np.int64)
    fields = []
    for labelled in dataset.fields:
        cells = labelled.annotations
        cells = replace(cells, labels=index[cells.labels]).select(index[cells.labels] >= 0)
        fields.append(replace(labelled, annotations=cells))
    pairs = [(t, name in dataset.exhaustive_for) for name, t in zip(dataset.classes.names, target, strict=True) if t]
    exhaustive = frozenset({t for t, _ in pairs} - {t for t, whole in pairs if not whole})
    return replace(dataset, classes=classes, fields=tuple(fields), exhaustive_for=exhaustive)
