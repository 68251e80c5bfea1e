"""A tiny set in YOLO format from drawings, with its own card and split, and a configuration that learns in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from detect.data.fingerprint import file_hash
from detect.data.splits import Row, Split
from detect.geometry import to_centers
from detect.types import Image
from tests import drawn as sample
from tests.data import encode
from tests.drawn import DrawnCell

NAMES = ("WBC", "RBC", "Platelets")
PARTS = {"train": 8, "dev": 2, "test": 2}


@dataclass(frozen=True)
class Tiny:
    """Where everything lies. `cells`: boxes drawn per part of the split."""

    home: Path
    card: Path
    split: Path
    config: Path
    cells: dict[str, int]


def write(folder: Path, name: str = "tiny", seed: int = 31) -> Tiny:
    """Twelve fields, eight to learn from."""
    home = folder / name
    for kind in ("images", "labels"):
        (home / kind / "all").mkdir(parents=True)
    parts = [part for part, n in PARTS.items() for _ in range(n)]
    rows, cells = [], dict.fromkeys(PARTS, 0)
    drawn = sample.fields(len(parts), seed, sample.SLIDES["slide-a"])
    for i, (part, (pixels, truth)) in enumerate(zip(parts, drawn, strict=True)):
        image = home / "images" / "all" / f"f{i:02d}.png"
        image.write_bytes(encode(_small(pixels), "PNG"))
        (home / "labels" / "all" / f"f{i:02d}.txt").write_text("\n".join(_lines(truth)) + "\n")
        rows.append(Row(image.relative_to(home).as_posix(), f"g{i // 2}", part, file_hash(image)))
        cells[part] += len(truth)
    split = folder / f"{name}-split.csv"
    Split(split.stem, tuple(rows)).write(split)
    card = folder / f"{name}.yaml"
    card.write_text(yaml.safe_dump(_card(name, split)), "utf-8")
    config = folder / "tiny-config.yaml"
    write_config(config)
    return Tiny(home, card, split, config, cells)


def write_outlined(folder: Path) -> Tiny:
    """The same, its boxes as outlines, so that cells have masks."""
    made = write(folder)
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    for path in (made.home / "labels" / "all").glob("*.txt"):
        lines = []
        for line in path.read_text().splitlines():
            k, cx, cy, w, h = line.split()
            x = np.clip(float(cx) + float(w) / 2 * np.cos(turns), 0, 1)
            y = np.clip(float(cy) + float(h) / 2 * np.sin(turns), 0, 1)
            lines.append(f"{k} " + " ".join(f"{a:.5f} {b:.5f}" for a, b in zip(x, y, strict=True)))
        path.write_text("\n".join(lines) + "\n")
    return made


def write_config(path: Path, **changes: object) -> Path:
    """A configuration of one epoch."""
    settings = {"family": "ultralytics", "model": "yolov8n", "epochs": 1, "image_size": 64, "batch": 4}
    path.write_text(yaml.safe_dump(settings | changes), "utf-8")
    return path


def _small(pixels: Image) -> Image:
    return np.ascontiguousarray(cv2.resize(pixels, (sample.WIDTH // 2, sample.HEIGHT // 2)))


def _lines(truth: list[DrawnCell]) -> list[str]:
    boxes = to_centers(np.array([c.box for c in truth], np.float32), sample.WIDTH, sample.HEIGHT)
    numbers = [{"RBC": 1, "Platelet": 2}.get(c.name, 0) for c in truth]
    return [f"{k} " + " ".join(f"{v:.6f}" for v in box) for k, box in zip(numbers, boxes, strict=True)]


def _card(name: str, split: Path) -> dict[str, object]:
    told = dict.fromkeys(("title", "citation", "source", "how_to_get"), "drawn for a test")
    return told | {
        "name": name,
        "licence": "MIT",
        "folder": name,
        "classes": ["WBC", "RBC", "Platelet"],
        "class_map": {"WBC": "WBC", "RBC": "RBC", "Platelets": "Platelet"},
        "exhaustive_for": ["WBC", "RBC", "Platelet"],
        "grouping": {"key": "field"},
        "layout": {
            "format": "yolo",
            "names": list(NAMES),
            "parts": {"all": {"images": "images/all", "labels": "labels/all"}},
        },
        "split": str(split),
    }
