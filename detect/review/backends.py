"""A review sent to CVAT or Label Studio through FiftyOne's back ends, with our label configuration, and fetched again.

Where the server is and who one is there, FiftyOne reads from `FIFTYONE_CVAT_URL`, `FIFTYONE_CVAT_USERNAME` and
`FIFTYONE_CVAT_PASSWORD`, or `FIFTYONE_LABELSTUDIO_URL` and `FIFTYONE_LABELSTUDIO_API_KEY`: no secret is an option.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from detect.errors import ConfigError, MissingExtraError
from detect.review import documents
from detect.review.database import ReviewError, reached
from detect.review.documents import TRUTH
from detect.review.open import open_dataset

_PREFIX = "smear_"
_ROUNDING = 1.01  # pixels: a corner rounded to whole pixels, on either side of a box


def send(name: str, backend: str, *, view: str | None = None) -> tuple[str, int]:
    """Send drawn cells to be edited: of the whole review, or of the fields in one of its saved views.

    Returns:
        The key of the job, for `fetch`, and the number of fields.
    """
    dataset, snapshot, _ = open_dataset(name)
    with reached(), _told(backend):
        import fiftyone as fo

        known = sorted(fo.annotation_config.backends)
        if backend not in known:
            raise ConfigError(f"no back end '{backend}'", remedy=f"one of: {', '.join(known)}")
        chosen = _fields(dataset, view)
        key = f"{_PREFIX}{len(dataset.list_annotation_runs()) + 1}"
        attributes = {} if backend == "labelstudio" else _attributes(snapshot.attributes)  # it takes none
        classes = _classes(dataset, snapshot.classes)
        schema = {TRUTH: {"type": "detections", "classes": classes, "attributes": attributes}}
        chosen.annotate(key, backend=backend, label_schema=schema, launch_editor=False)
        return key, len(chosen)


def fetch(name: str, key: str | None = None) -> tuple[str, int]:
    """Bring the labels of a job back into the review; they then stand in `smear review pull` like any other edit.

    Args:
        key: the last job if None.

    Returns:
        The job, and how many cells the review holds now.
    """
    dataset, *_ = open_dataset(name)
    with reached():
        jobs = [j for j in dataset.list_annotation_runs() if j.startswith(_PREFIX)]
        chosen = key or (jobs[-1] if jobs else None)
        if chosen is None or chosen not in jobs:
            raise ReviewError(
                f"no job '{key or ''}' of '{name}'", remedy=f"there are: {', '.join(jobs) or 'none'}; see 'review send'"
            )
        backend = dataset.get_annotation_info(chosen).config.name
        before = {c["_id"]: (c, size) for c, size in _cells(dataset)}
        with _told(backend):
            dataset.load_annotations(chosen, unexpected="keep", cleanup=False)
        _restore(dataset, before)
        return chosen, int(dataset.count(f"{TRUTH}.detections"))


def _cells(dataset: Any) -> Iterator[tuple[Any, tuple[int, int]]]:
    for row in dataset._sample_collection.find({}, {TRUTH: 1, "metadata": 1}):
        size = (int(row["metadata"]["width"]), int(row["metadata"]["height"]))
        yield from ((cell, size) for cell in documents.cells_of(row))


def _restore(dataset: Any, before: Mapping[Any, tuple[Any, tuple[int, int]]]) -> None:
    """Give cells that nobody moved their exact boxes and masks again.

    Back ends round corners to whole pixels and send boxes back without their masks; either would look like an edit.
    """
    from pymongo import UpdateOne

    changes = []
    for row in dataset._sample_collection.find({}, {TRUTH: 1}):
        for place, cell in enumerate(documents.cells_of(row)):
            was, size = before.get(cell["_id"], (None, (0, 0)))
            if was is None:
                continue
            pixels = zip(documents.pixels(cell, *size), documents.pixels(was, *size), strict=True)
            if max(abs(a - b) for a, b in pixels) > _ROUNDING:
                continue
            told = {k: was[k] for k in ("bounding_box", "mask") if k in was and cell.get(k) != was[k]}
            if told:
                values = {f"{TRUTH}.detections.{place}.{k}": v for k, v in told.items()}
                changes.append(UpdateOne({"_id": row["_id"]}, {"$set": values}))
    if changes:
        dataset._sample_collection.bulk_write(changes)


def _fields(dataset: Any, view: str | None) -> Any:
    if view is None:
        return dataset.view()
    known = dataset.list_saved_views()
    if view not in known:
        raise ConfigError(f"no saved view '{view}'", remedy=f"one of: {', '.join(known)}")
    shown = dataset.load_saved_view(view)
    # A view of cells stands for the fields that hold them: a cell is judged among its neighbours.
    ids = shown.distinct("sample_id") if shown._is_generated else shown.values("id")
    return dataset.select(ids)


def _classes(dataset: Any, classes: tuple[str, ...]) -> list[str]:
    """The set's classes, then the others that our label configuration offers."""
    offered = dataset.label_schemas.get(TRUTH, {}).get("classes", ())
    return list(dict.fromkeys([*classes, *offered]))


def _attributes(attributes: dict[str, type]) -> dict[str, dict[str, Any]]:
    told: dict[type, dict[str, Any]] = {bool: {"type": "checkbox", "default": False}, str: {"type": "text"}}
    return {name: dict(told[kind]) for name, kind in attributes.items() if kind in told}


@contextmanager
def _told(backend: str) -> Iterator[None]:
    """What a back end raises when its package or its server is missing, as an error with a remedy."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"the back end {backend} ({error})", "review") from error
    except (OSError, ValueError) as error:
        upper = backend.upper()
        raise ReviewError(
            f"{backend} does not take it: {str(error).splitlines()[0][:300] if str(error) else type(error).__name__}",
            remedy=f"check the server, FIFTYONE_{upper}_URL and the credentials that FiftyOne reads",
        ) from error
