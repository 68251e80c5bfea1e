"""What was found in an upload, as files, with what people said of it."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from detect.score import export
from detect.score.store import EXPORTS
from detect.web import pictures
from detect.web.reading import Scored
from detect.web.records import Records

FORMS = ("csv", "coco", "geojson", "review", "corrections")


def write(form: str, home: Path, run: Path, scored: Scored, records: Records, upload: str) -> Path:
    """One of the forms, in an empty folder.

    Args:
        form: of `FORMS`; see `Service.exported`. run: that found the cells.
    """
    if form == "csv":
        export.to_csv(run, home / EXPORTS["csv"])
        return _csv(home / EXPORTS["csv"], scored)
    if form == "coco":
        return _coco(run, home, scored)
    if form == "geojson":
        export.to_geojson(run, home / "geojson")
        return _zipped(home / "geojson.zip", _geojson(home / "geojson", scored))
    if form == "review":
        files = {}
        for number in (f.number for f in scored.fields if f.status == "ok"):
            path = files[f"images/{_shown(scored, number)}"] = home / f"{number}.png"
            path.write_bytes(pictures.png(pictures.field(scored, number, pictures.WHOLE)))
        return _zipped(home / "review.zip", {"annotations.json": _coco(run, home, scored), **files})
    return _corrections(home / "corrections.jsonl", records, upload)


def _shown(scored: Scored, number: int) -> str:
    """The name of a picture in an export: its own, made safe, behind its number."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(scored.pictures[number].name).stem)[:60].strip(".") or "field"
    return f"{number:05d}-{safe}.png"


def _coco(run: Path, home: Path, scored: Scored) -> Path:
    """The run's COCO with the words of people: their type is the category, the machine's stays in the attributes."""
    path = home / EXPORTS["coco"]
    export.to_coco(run, path)
    found = json.loads(path.read_text("utf-8"))
    numbers = {p.file: n for n, p in scored.pictures.items()}
    of_image = {image["id"]: numbers[image["file_name"]] for image in found["images"]}
    for image in found["images"]:
        image["original_name"] = scored.pictures[of_image[image["id"]]].name
        image["file_name"] = _shown(scored, of_image[image["id"]])
    names = {c["name"]: c["id"] for c in found["categories"]}
    for one in found["annotations"]:
        said = scored.said.get((of_image[one["image_id"]], one["attributes"]["cell"]), {})
        for what, word in said.items():
            one["attributes"][f"machine {what}"] = word.machine
            one["attributes"][f"{what} by"] = f"{word.who}, {word.at}"
            if what == "type":
                one["category_id"] = names.setdefault(word.value, len(names) + 1)
                one["attributes"]["confirmed"] = True
            else:
                one["attributes"][what] = float(word.value)
        if said and (about := scored.cell(of_image[one["image_id"]], one["attributes"]["cell"])) is not None:
            one["attributes"].pop("fab", None)
            one["attributes"] |= {"fab": about.fab} if about.fab else {}
    found["categories"] = [{"id": number, "name": name} for name, number in names.items()]
    path.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
    return path


def _csv(path: Path, scored: Scored) -> Path:
    """The run's CSV with the names of pictures as they came, and columns with the words of people."""
    numbers = {p.file: n for n, p in scored.pictures.items()}
    out = path.with_name("cells-corrected.csv")
    more = ("picture", "sha256", "corrected_type", "corrected_attributes", "by", "at")
    with path.open(newline="", encoding="utf-8") as source, out.open("w", newline="", encoding="utf-8") as target:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, [*(rows.fieldnames or ()), *more], lineterminator="\n", restval="")
        writer.writeheader()
        for row in rows:
            picture = scored.pictures[numbers[row["field"]]]
            said = scored.said.get((picture.number, int(row["cell"])), {})
            kind, others = said.get("type"), [w for what, w in said.items() if what != "type"]
            row |= {"field": _plain(picture.name), "picture": str(picture.number), "sha256": picture.sha256}
            row["corrected_attributes"] = "; ".join(f"{w.what}={w.value} by {_plain(w.who)}" for w in others)
            if said and (about := scored.cell(picture.number, int(row["cell"]))) is not None:
                row["fab"] = about.fab
            if kind is not None:
                row |= {"corrected_type": kind.value, "by": _plain(kind.who), "at": kind.at}
            writer.writerow(row)
    return out


def _geojson(folder: Path, scored: Scored) -> dict[str, Path]:
    """The run's GeoJSON by the names of pictures, cells that a person named by that name."""
    names = {p.file.replace("/", "__"): n for n, p in scored.pictures.items()}
    out = {}
    for path in sorted(folder.iterdir()):
        number = names[path.name.removesuffix(".geojson")]
        found = json.loads(path.read_text("utf-8"))
        for feature in found["features"]:
            about = feature["properties"]
            cell = int(about["name"].rpartition("#")[2])
            about["name"] = f"{scored.pictures[number].name}#{cell}"
            said = scored.said.get((number, cell), {})
            if "type" in said:
                about["classification"]["name"] = said["type"].value
            if said and (now := scored.cell(number, cell)) is not None:
                about.get("metadata", {}).pop("fab", None)
                if now.fab:
                    about.setdefault("metadata", {})["fab"] = now.fab
        path.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
        out[f"{_shown(scored, number).removesuffix('.png')}.geojson"] = path
    return out


def _plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _corrections(path: Path, records: Records, upload: str) -> Path:
    """Every correction that was ever made of an upload, a line each."""
    names = {p.number: p.name for p in records.pictures(upload)}
    lines = []
    for _, one in records.corrections(upload):
        row: dict[str, object] = {
            "field": one.picture,
            "name": names.get(one.picture or 0),
            "sha256": one.sha256,
            "cell": one.cell,
        }
        row |= {"box": one.box, "what": one.what, "machine": one.machine, "value": one.value}
        lines.append(json.dumps(row | {"who": one.who, "at": one.at}, ensure_ascii=False))
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def _zipped(path: Path, files: Mapping[str, Path]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, file in files.items():
            packed.write(file, name)
    return path
