"""YOLO text labels: one file a field, one line a cell, `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`.

Coordinates are fractions of the field. A file without lines says that the field holds no cell; a missing file
says nothing, and the field is noted as unlabelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from detect import geometry
from detect.config import load_yaml
from detect.errors import FormatError
from detect.formats import masks
from detect.formats.labels import ClassNames, Labels, box_fault, stem_of
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField, Rle

NOT_LABELS = {"classes.txt", "labels.txt", "notes.txt", "readme.txt"}
ORDER = "class names in another order"  # of two lists in one set: one of them calls every cell by a wrong name
SAID = "yolo"  # key of what a cell's line said, where we would write it otherwise, here or by way of COCO
_SAME = 2e-3  # pixels
_EDGE = 1e-3  # fractions of a field: rounding in published files oversteps the border by this much


@dataclass(frozen=True)
class _Line:
    box: tuple[float, float, float, float]  # xyxy, pixels
    label: int
    number: int
    mask: Rle | None
    said: str  # the coordinates as they were written


@dataclass(frozen=True)
class DataYaml:
    """What a `data.yaml` says.

    Attributes:
        names: class number to published name.
        parts: part to the folders of images, and text files that list images, that make it up.
    """

    names: dict[int, str]
    parts: dict[str, tuple[Path, ...]]


def read_data_yaml(path: Path, tally: Tally) -> DataYaml:
    """A `data.yaml` in any of its published shapes.

    `names` may be a list or a mapping; a part may be a folder, a text file that lists images, or a list of both;
    `path` may be missing, relative, or lead to another machine, and then the yaml's own folder stands in for it.
    """
    data = load_yaml(path)
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(k, int) for k in names):
        raise FormatError(f"names: expected a list or 'number: name' lines, got {names!r}", where=str(path))
    if isinstance(data.get("nc"), int) and data["nc"] != len(names):
        tally.add("number of classes differs", str(path), f"nc {data['nc']}, {len(names)} names", "noted")
    home = path.parent
    told = data.get("path")
    if told and not _exists(home / str(told)):
        tally.add("path leads nowhere", str(path), f"'{told}', the yaml's own folder is used", "repaired")
    elif told:
        home = home / str(told)
    parts: dict[str, tuple[Path, ...]] = {}
    for part in ("train", "val", "valid", "test"):
        entries = data.get(part)
        if entries:
            listed = entries if isinstance(entries, list) else [entries]
            role = "val" if part == "valid" else part
            parts[role] = parts.get(role, ()) + tuple(_place(home, str(e), path, part) for e in listed)
    return DataYaml({k: str(v) for k, v in sorted(names.items())}, parts)


def _place(home: Path, entry: str, path: Path, part: str) -> Path:
    # Roboflow writes ../train/images for a folder that lies beside data.yaml.
    for candidate in (home / entry, home / entry.removeprefix("../"), path.parent / entry):
        if _exists(candidate):
            return candidate
    raise FormatError(f"{part}: no '{entry}' below {home}", where=str(path), remedy="correct 'path', or the part")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than any file's
        return False


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, stripped; blank ones are kept."""
    try:
        return [line.strip() for line in path.read_bytes().decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 text: {error}", where=str(path), remedy="save it as UTF-8") from error


def listed_images(place: Path) -> list[Path]:
    """The image paths of a text file that lists them, relative ones from its own folder.

    CVAT sets `data/` before them, for a folder that it does not write.
    """
    found = [place.parent / line.removeprefix("./") for line in lines_of(place) if line]
    return [
        path
        if _exists(path) or not path.is_relative_to(place.parent / "data")
        else place.parent / path.relative_to(place.parent / "data")
        for path in found
    ]


def label_path(image: Path) -> Path:
    """Where the labels of an image lie: the last folder `images` of its path becomes `labels`."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read(
    fields: Sequence[Field],
    labels_dir: Path | None,
    names: Mapping[int, str],
    class_map: ClassNames,
    classes: ClassMap,
    tally: Tally,
) -> list[LabelledField]:
    """Labels of `fields`, found by the stem of each field's file.

    Args:
        fields: with known width and height.
        labels_dir: where all the label files lie; None for `label_path` of each image.
        names: published class name of each class number.
        class_map: published name to class of `classes`.
    """
    if labels_dir is not None and not labels_dir.is_dir():
        raise FormatError("no such folder of labels", where=str(labels_dir), remedy="check the card's layout")
    labels = Labels(classes, class_map, tally)
    out = []
    known: set[Path] = set()
    for field in fields:
        path = labels_dir / f"{field.path.stem}.txt" if labels_dir is not None else label_path(field.path)
        if labels_dir is None and not path.is_file() and field.path.with_suffix(".txt").is_file():
            path = field.path.with_suffix(".txt")  # beside the picture, below some folder called `images`
        known.add(path)
        if not path.is_file():
            tally.add("unlabelled image", str(field.path), f"no {path.name}", "noted")
            continue
        out.append(LabelledField(field, _read_file(path, field, names, labels, tally)))
    for folder in sorted({p.parent for p in known} | ({labels_dir} if labels_dir is not None else set())):
        _check_names_file(folder, names, tally)
        for path in sorted(folder.glob("*.txt")):
            if path not in known and path.name.lower() not in NOT_LABELS:
                tally.add("label file without an image", str(path), "no image of that name", "dropped")
    tally.read["fields"] += len(out)
    tally.read["cells"] += sum(len(f.annotations) for f in out)
    return out


def _check_names_file(labels_dir: Path, names: Mapping[int, str], tally: Tally) -> None:
    for path in sorted(p for p in labels_dir.glob("*.txt") if p.name.lower() in NOT_LABELS):
        tally.add("not a label file", str(path), "lies among the label files", "noted")
        if path.name.lower() == "classes.txt":
            said = path.read_text("utf-8", errors="replace").splitlines()
            for i, word in enumerate(said):
                if i in names and word.strip() != names[i]:
                    what = f"'{word}', the set's own list says '{names[i]}'"
                    kind = ORDER if word.strip() in names.values() else "class name differs"
                    tally.add(kind, f"{path}:{i + 1}", what, "noted")


def _read_file(path: Path, field: Field, names: Mapping[int, str], labels: Labels, tally: Tally) -> Annotations:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        tally.add("label file is not text", str(path), str(error), "dropped")
        text = ""
    lines: list[_Line] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        parts = tuple(raw.split())
        if not parts:
            continue
        where = f"{path}:{number}"
        if parts in seen:
            tally.add("repeated box", where, f"the same as line {seen[parts]}", "dropped")
            continue
        seen[parts] = number
        line = _parse(parts, number, where, field, names, labels, tally)
        if line is not None:
            lines.append(line)
    boxes = np.array([line.box for line in lines], np.float32).reshape(-1, 4)
    boxes = geometry.clip(boxes, field.width, field.height)
    ours = _coordinates(_to_thousandths(boxes), field)
    return Annotations.of(
        boxes,
        [line.label for line in lines],
        ids=[line.number for line in lines],
        extra=[
            {} if line.mask or line.said == own else {SAID: line.said} for line, own in zip(lines, ours, strict=True)
        ],
        masks=[line.mask for line in lines],
    )


def _parse(
    parts: tuple[str, ...],
    number: int,
    where: str,
    field: Field,
    names: Mapping[int, str],
    labels: Labels,
    tally: Tally,
) -> _Line | None:
    try:
        values = [float(p) for p in parts]
    except ValueError:
        tally.add("not a number", where, " ".join(parts)[:80], "dropped")
        return None
    if not all(map(math.isfinite, values)):
        tally.add("not a finite number", where, " ".join(parts)[:80], "dropped")
        return None
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        tally.add("wrong number of values", where, f"{len(values)}, expected 5 or an odd number above 6", "dropped")
        return None
    number_of_class = int(values[0])
    if number_of_class != values[0] or number_of_class not in names:
        tally.add("unknown class number", where, f"{parts[0]}, known: {', '.join(map(str, names))}", "dropped")
        return None
    label = labels.get(names[number_of_class], where)
    if label is None:
        return None
    if len(values) == 5:
        box = geometry.from_centers(np.array(values[1:]), field.width, field.height)[0]
        mask = None
    else:
        points = np.array(values[1:]).reshape(-1, 2) * [field.width, field.height]
        box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)
        try:
            mask = masks.from_polygons([points.ravel().tolist()], field.width, field.height)
        except ValueError as error:
            tally.add("mask cannot be read", where, str(error), "dropped")
            mask = None
    x0, y0, x1, y1 = map(float, box)
    fault = box_fault(x0, y0, x1, y1, field.width, field.height)
    if fault is not None:
        tally.add(fault, where, " ".join(parts[:5]), "dropped")
        return None
    over = max(-x0 / field.width, -y0 / field.height, x1 / field.width - 1, y1 / field.height - 1)
    if over > _EDGE:
        tally.add("box oversteps the field", where, f"by {over:.1%} of a side", "repaired")
    return _Line((x0, y0, x1, y1), label, number, mask, " ".join(parts[1:]))


def _coordinates(boxes: NDArray[np.float32], field: Field) -> list[str]:
    """Boxes as a line of YOLO has them, without the class."""
    return [" ".join(f"{v:.6f}" for v in c) for c in geometry.to_centers(boxes, field.width, field.height)]


def _to_thousandths(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes as they come back from a COCO file of ours, so that lines survive that way too."""
    return geometry.from_xywh(np.round(geometry.to_xywh(boxes), 3))


def _four(said: str) -> list[float] | None:
    try:
        values = [float(v) for v in said.split()]
    except ValueError:
        return None
    return values if len(values) == 4 and all(map(math.isfinite, values)) else None


def lines_for(labelled: LabelledField) -> list[str]:
    """The lines of a field's label file. A box that is still where its source wrote it is written as there."""
    field, cells = labelled.field, labelled.annotations
    out = []
    for i, ours in enumerate(_coordinates(cells.boxes, field)):
        said = cells.extra[i].get(SAID)
        if isinstance(said, str) and said != ours and (told := _four(said)) is not None:
            box = geometry.from_centers(np.array(told), field.width, field.height)
            same = np.abs(geometry.clip(box, field.width, field.height)[0] - cells.boxes[i]).max() <= _SAME
            ours = said if same else ours
        out.append(f"{cells.labels[i]} {ours}")
    return out


def write(dataset: Dataset, out: Path, parts: Mapping[str, Sequence[LabelledField]]) -> Path:
    """A YOLO folder that ultralytics trains from: `images/<part>`, `labels/<part>`, `data.yaml`.

    Images are linked, not copied, where the system allows. Boxes are written with six decimals, which is
    within half a pixel up to sides of a million pixels. Masks are not written.

    Returns:
        The path of `data.yaml`.
    """
    for part, fields in parts.items():
        owner: dict[str, str] = {}
        for kind in ("images", "labels"):
            (out / kind / part).mkdir(parents=True, exist_ok=True)
        for labelled in fields:
            field = labelled.field
            stem = stem_of(field.id)
            if owner.setdefault(stem, field.id) != field.id:
                what = f"'{owner[stem]}' and '{field.id}' would share the label file {stem}.txt"
                raise FormatError(what, where=str(out), remedy="rename one of the two")
            link(field.path, out / "images" / part / f"{stem}{field.path.suffix.lower()}")
            text = "".join(f"{line}\n" for line in lines_for(labelled))
            (out / "labels" / part / f"{stem}.txt").write_text(text, "utf-8")
    return write_data_yaml(out, [*parts], dataset.classes.names)


def write_data_yaml(out: Path, parts: Sequence[str], names: Sequence[str], *, home: Path | None = None) -> Path:
    """`data.yaml` of a folder with `images/<part>` and `labels/<part>`; its path. home: where the folder will lie."""
    places: dict[str, list[str]] = {"train": [], "val": []}  # ultralytics wants both keys; an empty one is nothing
    for part in parts:
        role = {"valid": "val"}.get(part, part if part in ("train", "val", "test") else "train")
        places.setdefault(role, []).append(f"images/{part}")
    data: dict[str, object] = {"path": str(home or out.resolve())}
    data |= {role: folders[0] if len(folders) == 1 else folders or None for role, folders in places.items()}
    data["names"] = dict(enumerate(names))
    path = out / "data.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path


def link(source: Path, target: Path) -> None:
    """A symbolic link where the system allows one, else a copy.

    Raises:
        FormatError: the target is the picture itself, which a link would replace.
    """
    if target.resolve() == source.resolve() and not target.is_symlink():
        what = "a link in the place of the picture itself"
        raise FormatError(what, where=str(source), remedy="write into another folder, or give pictures relative names")
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        target.write_bytes(source.read_bytes())
