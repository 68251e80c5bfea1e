"""What an audit found: `audit.json`, `groups.csv` for `smear data split --groups`, and a page with the pictures."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from detect.data import audit, copies
from detect.data.audit import Item, Look
from detect.data.check import statistics
from detect.data.copies import Pair
from detect.data.sources import Parts
from detect.errors import ImageError, StoreError
from detect.images import decode

_SIDE = 220  # pixels of a picture on the page
_SHOWN = 60  # most pairs on the page


def items_of(name: str, parts: Parts) -> list[Item]:
    """The pictures of one set."""
    out = []
    for part, dataset in parts.items():
        for labelled in dataset.fields:
            field = labelled.field
            out.append(Item(field.id, field.path, name, part, _label(labelled.extra, dataset, labelled.annotations)))
    return out


def _label(extra: Mapping[str, Any], dataset: Any, cells: Any) -> str | None:
    if "label" in extra:
        return str(extra["label"])
    return str(dataset.classes.names[cells.labels[0]]) if len(cells) == 1 else None


def write(
    sets: Mapping[str, Parts],
    seen: Look,
    found: Sequence[Pair],
    out: Path,
    max_difference: int,
    *,
    by_parts: bool = True,
) -> dict[str, Any]:
    """Write everything into a new folder.

    Returns:
        What `audit.json` holds.
    """
    if out.exists() and any(out.iterdir()):
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    out.mkdir(parents=True, exist_ok=True)
    numbers = copies.numbers(len(seen.items), found)
    with (out / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["set", "field", "group"])
        for item, number in zip(seen.items, numbers, strict=True):
            rows.writerow([item.set, item.id, f"{seen.items[number].set}/{seen.items[number].id}"])
    places = [f"{item.set}/{item.part}" for item in seen.items]
    crossing = audit.crossings(seen, numbers)
    about: dict[str, Any] = {
        "pictures": len(seen.items),
        "unreadable": [{"field": i.id, "set": i.set, "reason": reason} for i, reason in seen.unreadable],
        "max_difference": max_difference,
        "key_points": by_parts,
        "independent": audit.independent(seen, numbers),
        "pairs": [{"between": list(k), "pairs": n} for k, n in sorted(crossing.items())],
        "two_labels": _two_labels(seen, numbers),
        "quality": _qualities(seen, places),
        "colour": audit.colour_differences(seen),
        "boxes": {name: statistics(parts) for name, parts in sets.items()},
    }
    listed = [
        {
            "a": f"{places[p.a]}: {seen.items[p.a].id}",
            "b": f"{places[p.b]}: {seen.items[p.b].id}",
            "difference": p.difference,
            "matches": p.matches,
            "correlation": p.correlation,
            "share": p.share,
        }
        for p in found
    ]
    (out / "audit.json").write_text(json.dumps({**about, "copies": listed}, indent=1), "utf-8")
    shown = _chosen(seen, found, places)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("detect.data"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("audit.html.j2").render(
        about=about, sets=list(sets), pairs=[_pictured(seen, places, p) for p in shown], total=len(found)
    )
    (out / "index.html").write_text(page, "utf-8")
    return about


def _two_labels(seen: Look, numbers: Sequence[int]) -> int:
    """Groups of copies that carry more than one label."""
    labels: dict[int, set[str]] = {}
    for item, number in zip(seen.items, numbers, strict=True):
        if item.label is not None:
            labels.setdefault(number, set()).add(item.label)
    return sum(len(found) > 1 for found in labels.values())


def _qualities(seen: Look, places: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Per place and figure of quality: 5 %, median and 95 %."""
    out: dict[str, dict[str, list[float]]] = {}
    for place in dict.fromkeys(places):
        mine = [q for q, p in zip(seen.qualities, places, strict=True) if p == place]
        out[place] = {
            key: [round(float(v), 3) for v in np.quantile([q[key] for q in mine], [0.05, 0.5, 0.95])] for key in mine[0]
        }
    return out


def _chosen(seen: Look, found: Sequence[Pair], places: Sequence[str]) -> list[Pair]:
    """Pairs to look at: those across places first, then evenly from the surest to the least sure."""
    across = [p for p in found if places[p.a] != places[p.b]]
    within = [p for p in found if places[p.a] == places[p.b]]
    return _even(across, _SHOWN * 2 // 3) + _even(within, _SHOWN - min(len(across), _SHOWN * 2 // 3))


def _even(found: Sequence[Pair], most: int) -> list[Pair]:
    if len(found) <= most:
        return list(found)
    return [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]


def _pictured(seen: Look, places: Sequence[str], pair: Pair) -> dict[str, Any]:
    sides = []
    for i in (pair.a, pair.b):
        item = seen.items[i]
        size = f"{seen.sizes[i, 0]} x {seen.sizes[i, 1]}"
        sides.append({"place": places[i], "field": item.id, "label": item.label, "size": size, "picture": _thumb(item)})
    return {"sides": sides, "said": str(pair), "across": places[pair.a] != places[pair.b]}


def _thumb(item: Item) -> str:
    try:
        pixels = decode.read(item.path)
    except ImageError:
        return ""
    scale = _SIDE / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
