"""Synthetic slides as a folder that scores, trains and opens in a review.

OUT/
  images/slide-01/field-001.jpg ...
  annotations.json   COCO: boxes, masks of cell (`segmentation`) and nucleus (`nucleus`), types, attributes
  slides.csv         one row a slide: disease, scale, cells per type
  split.csv          slides for training and for choosing settings on
  <name>.yaml        dataset card for detectors: WBC, RBC, Platelet
  <name>-types.yaml  dataset card for classifiers: every type that is drawn
  smear.yaml         all ranges, the seed, and the version that drew it
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import yaml

from detect import __version__
from detect.data.fingerprint import file_hash
from detect.data.smear import field as fields
from detect.data.smear import slide as slides
from detect.data.smear.settings import Smear
from detect.data.splits import Row, Split
from detect.data.whole import whole
from detect.formats import coco, masks
from detect.taxonomy import taxonomy
from detect.types import Annotations, ClassMap, Dataset, Field, Image, LabelledField

Progress = Callable[[int, int], None]
LABELS, SLIDES, SPLIT, ABOUT = "annotations.json", "slides.csv", "split.csv", "smear.yaml"
DETECTED = ("WBC", "RBC", "Platelet")
# What the bundles of a pipeline are asked, one card each: which white cell, of a blast which lineage, which FAB type.
QUESTIONS = {
    "white": ("Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil", "Basophil", "Immature granulocyte", "Blast",
              "Smudge cell", "Artefact"),
    "blasts": ("Lymphoblast", "Myeloblast"),
    "fab": ("FAB L1", "FAB L2", "FAB L3"),
}  # fmt: skip
_EVERY = 5  # a slide for dev among so many
_SEVERAL = 8  # slides whose grain a process keeps


@dataclass(frozen=True)
class Asked:
    """What to draw.

    Attributes:
        slides, fields: how many; fields of each slide. width, height: pixels of a field.
        workers: processes. The same seed gives the same bytes with any number of them.
    """

    out: Path
    slides: int = 4
    fields: int = 25
    seed: int = 1
    width: int = 1024
    height: int = 1024
    workers: int = 1
    name: str = "synthetic"


def synthesize(settings: Smear, asked: Asked, progress: Progress | None = None) -> Dataset:
    """Draw slides into a folder, which appears whole at the end, or not at all.

    Raises:
        StoreError: the folder is not empty.
    """
    with whole(asked.out) as folder:
        (folder / "images").mkdir()
        dataset = _draw(settings, asked, folder, progress)
        _write(settings, asked, dataset, folder)
    return dataset


def slide_name(number: int) -> str:
    """Folder of a slide; the first has number 0."""
    return f"slide-{number + 1:02d}"


def classes_of(settings: Smear) -> ClassMap:
    """Every label that may be drawn, in the order of the taxonomy."""
    drawn = {"RBC", "Platelet", "Platelet clump", "Artefact", *settings.whites}
    return ClassMap(tuple(label.name for label in taxonomy().labels if label.name in drawn))


def _draw(settings: Smear, asked: Asked, folder: Path, progress: Progress | None) -> Dataset:
    classes = classes_of(settings)
    jobs = [(settings, asked, folder, n, i) for n in range(asked.slides) for i in range(asked.fields)]
    out = []
    for labelled in _each(jobs, asked.workers):
        out.append(labelled)
        if progress is not None:
            progress(1, len(jobs))
    return Dataset(asked.name, folder / "images", classes, tuple(out), frozenset(classes.names))


def _each(jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[LabelledField]:
    if workers == 1:
        yield from map(_one, jobs)
        return
    # Fresh processes: a forked one would inherit the threads of whatever was imported.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(_one, jobs, chunksize=4)


@lru_cache(maxsize=_SEVERAL)
def _slide(settings: str, seed: int, number: int) -> slides.Slide:
    return slides.draw(Smear.model_validate_json(settings), seed, number)


def _one(job: tuple[Smear, Asked, Path, int, int]) -> LabelledField:
    """Draw a field and write its picture."""
    settings, asked, folder, number, index = job
    slide = _slide(settings.model_dump_json(), asked.seed, number)
    drawn = fields.draw(settings, slide, asked.seed, index, asked.width, asked.height)
    name = f"{slide_name(number)}/field-{index + 1:03d}.jpg"
    path = folder / "images" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(jpeg(drawn.pixels, int(slide.optics["jpeg"])))
    told = {"slide": slide_name(number), "disease": slide.disease, "px_per_um": round(slide.px_per_um, 4)}
    field = Field(name, slide_name(number), path, asked.width, asked.height, group=slide_name(number))
    return LabelledField(field, annotations_of(drawn, classes_of(settings)), told)


def jpeg(pixels: Image, quality: int) -> bytes:
    """A picture as the camera of a slide saves it."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data.tobytes())


def annotations_of(drawn: fields.SmearField, classes: ClassMap) -> Annotations:
    """The cells of a field as records; `extra` holds attributes and the mask of the nucleus."""
    height, width = drawn.pixels.shape[:2]
    extra = []
    for cell in drawn.cells:
        told: dict[str, Any] = {"attributes": dict(cell.attributes)}
        if cell.nucleus is not None and cell.nucleus.any():
            run = masks.encode_at(cell.nucleus, cell.left, cell.top, width, height)
            told["nucleus"] = {"size": list(run["size"]), "counts": run["counts"].decode("ascii")}
        extra.append(told)
    return Annotations.of(
        [cell.box for cell in drawn.cells],
        [classes.index(cell.name) for cell in drawn.cells],
        extra=extra,
        masks=[masks.encode_at(c.cell, c.left, c.top, width, height) for c in drawn.cells],
    )


def _write(settings: Smear, asked: Asked, dataset: Dataset, folder: Path) -> None:
    coco.write(dataset, folder / LABELS)
    names = dataset.classes.names
    cells: dict[str, Counter[str]] = {}
    for labelled in dataset.fields:
        cells.setdefault(labelled.field.slide, Counter()).update(names[i] for i in labelled.annotations.labels)
    told = {f.field.slide: f.extra for f in dataset.fields}
    with (folder / SLIDES).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["slide", "disease", "px_per_um", "fields", *names])
        for slide, counts in cells.items():
            about = told[slide]
            rows.writerow([slide, about["disease"], about["px_per_um"], asked.fields, *(counts[n] for n in names)])
    dev = {slide_name(n) for n in range(asked.slides) if n % _EVERY == _EVERY - 1 or (n == asked.slides - 1 and n)}
    parts = [(f.field, "dev" if f.field.slide in dev else "train") for f in dataset.fields]
    Split("split", tuple(Row(f.id, f.slide, p, file_hash(f.path)) for f, p in parts)).write(folder / SPLIT)
    types = [n for n in names if n not in ("RBC", "Platelet", "Platelet clump", "Artefact")]
    _card(asked.name, DETECTED, names, folder)
    for question, answers in {"types": types, **QUESTIONS}.items():
        _card(f"{asked.name}-{question}", answers, names, folder)
    about = {
        "smear_detect": __version__,
        "seed": asked.seed,
        "slides": asked.slides,
        "fields": asked.fields,
        "size": [asked.width, asked.height],
        "ranges": settings.model_dump(mode="json"),
    }
    (folder / ABOUT).write_text(yaml.safe_dump(about, sort_keys=False, width=120), "utf-8")


def _card(name: str, classes: Sequence[str], drawn: Sequence[str], folder: Path) -> None:
    tree = taxonomy()
    said = "drawn by smear data synthesize"
    card: dict[str, Any] = {
        "name": name,
        "title": "Synthetic smear: every cell is known; nothing on it was ever alive",
        "licence": "free of rights: a drawing",
        "citation": said,
        "source": said,
        "how_to_get": said + ", with the settings in " + ABOUT,
        "folder": ".",
        "classes": list(classes),
        # A label that is none of these, nor of their children, is left out on purpose.
        "class_map": {label: tree.common(label, classes) for label in drawn},
        "exhaustive_for": list(classes),
        "grouping": {"key": "slide"},
        "layout": {"format": "coco", "parts": {"all": {"images": "images", "labels": LABELS}}},
        "split": SPLIT,
        "synthetic": True,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(card, sort_keys=False), "utf-8")
