"""The public sets of leukemic cells train from their cards: from folders laid out as they are published."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from tests import drawn as sample
from tests.cli.command import inside

pytest.importorskip("torch", reason="torch is not installed")


def picture(path: Path, seed: int, blast: bool) -> None:
    """A cell of one of two looks, as a file of whatever kind the name says."""
    pixels, truth = sample.field(seed, ["Lymphocyte" if blast else "Neutrophil"])
    x0, y0, x1, y1 = (int(v) for v in next(t for t in truth if t.name not in ("RBC", "Platelet")).box)
    cut = cv2.resize(np.ascontiguousarray(pixels[max(0, y0) : y1, max(0, x0) : x1]), (72, 72))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(cut, cv2.COLOR_RGB2BGR))


def c_nmc(home: Path) -> None:
    """Subjects of two kinds, several cells each, in folds."""
    for i in range(32):
        kind = ("all", "hem")[i % 2]
        subject = f"{i // 4 + 1}" if kind == "all" else f"H{i // 4 + 1}"
        name = f"C-NMC_training_data/fold_{i % 3}/{kind}/UID_{subject}_{i}_1_{kind}.bmp"
        picture(home / "c-nmc-2019" / name, 100 + i, kind == "all")


def all_idb1(home: Path) -> None:
    """Whole fields under one label."""
    for i in range(32):
        picture(home / "all-idb1" / f"ALL_IDB1/im/Im{i + 1:03d}_{i % 2}.jpg", 300 + i, bool(i % 2))


def all_idb2(home: Path) -> None:
    """Cells cut out of fields."""
    for i in range(32):
        picture(home / "all-idb2" / f"ALL_IDB2/img/Im{i + 1:03d}_{i % 2}.tif", 500 + i, bool(i % 2))


def lmu(home: Path) -> None:
    """A folder a type."""
    for i in range(32):
        kind = ("MYO", "NGS")[i % 2]
        picture(home / "aml-cytomorphology-lmu" / f"AML-Cytomorphology/{kind}/{kind}_{i:04d}.tiff", 700 + i, not i % 2)


@pytest.mark.parametrize(
    ("card", "make", "types"),
    [
        ("c-nmc-2019", c_nmc, {"Lymphoblast", "WBC"}),
        ("all-idb1", all_idb1, {"Lymphoblast", "WBC"}),
        ("all-idb2", all_idb2, {"Lymphoblast", "WBC"}),
        ("aml-cytomorphology-lmu", lmu, {"Myeloblast", "Segmented neutrophil"}),
    ],
)
def test_a_set_trains_from_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: str, make: object, types: set[str]
) -> None:
    make(tmp_path)  # type: ignore[operator]
    monkeypatch.setenv("SMEAR_DATA", str(tmp_path))
    monkeypatch.setattr("detect.classify.learn.cores", lambda: 1)
    split = tmp_path / "split.csv"
    answer = inside("data", "split-cells", card, "--out", split, "--dev", "0.25", "--test", "0.25", "--min-groups", "3")
    assert answer.code == 0, answer.err
    settings = {"network": "lenet", "image_size": 32, "epochs": 3, "batch": 8, "precision": "fp32"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    data = ("--data", card, "--split", split)
    answer = inside("train", "classifier", tmp_path / "c.yaml", *data, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    answer = inside("bundle", "export", tmp_path / "run", "--out", tmp_path / "bundle")
    assert answer.code == 0, answer.err
    bundle = open_bundle(tmp_path / "bundle", "classifier")
    assert set(bundle.card.classes) == types
    assert bundle.card.trained_on == "real"
    assert bundle.card.training is not None
    if load_card(card).grouping.key == "patient":
        rows = [line.split(",") for line in split.read_text().splitlines()[1:]]
        parts: dict[str, set[str]] = {}
        for field, _, part, _ in rows:
            parts.setdefault(field.rpartition("/")[2].split("_")[1], set()).add(part)
        assert all(len(p) == 1 for p in parts.values())  # no subject on two sides
