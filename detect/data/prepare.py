"""A user's download of a public set to COCO with groups, as its card says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from detect import __version__
from detect.data import copies
from detect.data.cards import Card
from detect.data.load import load_dataset
from detect.errors import StoreError
from detect.formats import coco, yolo
from detect.formats.tally import Tally
from detect.types import Dataset, LabelledField


def prepare(card: Card, source: Path, out: Path, tally: Tally) -> dict[str, int]:
    """Write `annotations/instances_<part>.json`, links to the pictures, and `prepared.yaml`.

    Every image carries `slide`, `group` and, where the publisher tells, `patient`.

    Args:
        source: the folder that the set was unpacked into.

    Returns:
        Fields per part.
    """
    if out.exists() and any(out.iterdir()):
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    parts = load_dataset(card, tally, source)
    everything = [(part, f) for part, dataset in parts.items() for f in dataset.fields]
    groups = _groups(card, [f for _, f in everything])
    counts: dict[str, int] = {}
    for part, dataset in parts.items():
        fields = []
        for labelled in dataset.fields:
            field = labelled.field
            said = {"slide": field.slide, "group": groups[field.id]}
            if field.patient is not None:
                said["patient"] = field.patient
            fields.append(replace(labelled, extra={**labelled.extra, **said}))
            target = out / "images" / field.id
            target.parent.mkdir(parents=True, exist_ok=True)
            yolo.link(field.path, target)
        coco.write(_numbered(replace(dataset, fields=tuple(fields))), out / "annotations" / f"instances_{part}.json")
        counts[part] = len(fields)
    about = {
        "smear_detect": __version__,
        "card": card.name,
        "licence": card.licence,
        "citation": card.citation,
        "patient": card.grouping.patient,
        "exhaustive_for": list(card.exhaustive_for),
        "fields": counts,
        "groups": len(set(groups.values())),
        "problems": tally.counts(),
    }
    (out / "prepared.yaml").write_text(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), "utf-8")
    return counts


def _numbered(dataset: Dataset) -> Dataset:
    """Without the ids of single label files, which repeat from file to file."""
    start = 1
    fields = []
    for labelled in dataset.fields:
        n = len(labelled.annotations)
        fields.append(replace(labelled, annotations=replace(labelled.annotations, ids=tuple(range(start, start + n)))))
        start += n
    return replace(dataset, fields=tuple(fields))


def _groups(card: Card, fields: list[LabelledField]) -> dict[str, str]:
    """The group of each field: patient, slide or the set itself where the card says so, else its near copies."""
    key = card.grouping.key
    if key == "field":
        return {f.field.id: f.field.id for f in fields}
    if key == "slide":
        return {f.field.id: f.field.slide for f in fields}
    if key == "set":
        return {f.field.id: card.name for f in fields}
    if key == "patient":
        return {f.field.id: f.field.group or f.field.id for f in fields}
    numbers = copies.groups([f.field.path for f in fields])
    return {f.field.id: fields[n].field.id for f, n in zip(fields, numbers, strict=True)}
