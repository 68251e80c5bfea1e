"""Every card parses, and what it says can be read: on real files where they are here, else on a replica."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from detect.data.cards import Card, load_card
from detect.data.load import load_dataset
from detect.data.prepare import prepare
from detect.errors import DataError
from detect.formats.tally import Tally
from detect.taxonomy import taxonomy
from tests.data import encode, smear
from tests.data_room.test_overlap import turned

CARDS = sorted((Path(__file__).resolve().parent.parent.parent / "datasets").glob("*.yaml"))
BY_NAME = {path.stem: load_card(path) for path in CARDS}
WITH_PICTURES = [name for name, card in BY_NAME.items() if card.pictures is not None]
NAMED = {
    "txl-pbc", "bccd", "cbc", "blood-cell-images", "wbc-masks", "all-idb1", "all-idb2", "c-nmc-2019", "surabaya-all",
    "ash-image-bank", "lisc", "raabin-wbc", "raabin-leukemia", "aml-cytomorphology-lmu", "pbc", "tabriz",
    "taleqani-b-all", "leukemia-attri",
}  # fmt: skip


def _draw(path: Path, seed: int, size: tuple[int, int] = (40, 36)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    rough.resize(size, Image.Resampling.BICUBIC).save(path)


def _replica(card: Card, home: Path) -> list[str]:
    assert card.pictures is not None
    for seed, example in enumerate(card.pictures.examples):
        _draw(home / example, seed)
    _draw(home / "somewhere" / "else.png", 99)
    return list(card.pictures.examples)


def test_every_set_of_the_literature_has_a_card() -> None:
    assert set(BY_NAME) == NAMED


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_card_is_complete(name: str) -> None:
    card = BY_NAME[name]
    assert card.name == name
    assert len(card.defects) >= 1
    assert all(label in taxonomy() for label in card.classes)
    assert card.unavailable or card.layout or card.pictures or card.mask_folders
    assert not re.search(r"\S+@\S+\.\S+", path_text(name)), "no e-mail address on a card"


def path_text(name: str) -> str:
    return next(p for p in CARDS if p.stem == name).read_text("utf-8")


@pytest.mark.parametrize("name", WITH_PICTURES)
def test_prepare_reads_a_replica(name: str, tmp_path: Path) -> None:
    card = BY_NAME[name]
    expected = _replica(card, tmp_path / "set")
    tally = Tally()
    counts = prepare(card, tmp_path / "set", tmp_path / "out", tally)
    assert sum(counts.values()) == len(expected)
    assert tally.counts() == {"picture outside the published layout, dropped": 1}
    images = {}
    labels = []
    for part in counts:
        data = json.loads((tmp_path / "out" / "annotations" / f"instances_{part}.json").read_text("utf-8"))
        images |= {image["file_name"]: image for image in data["images"]}
        names = {c["id"]: c["name"] for c in data["categories"]}
        labels += [names[a["category_id"]] for a in data["annotations"]] + [
            i["label"] for i in data["images"] if "label" in i
        ]
    assert set(images) == set(expected)
    assert all((tmp_path / "out" / "images" / name_).is_file() for name_ in images)
    assert all(image["group"] for image in images.values())
    assert len(labels) == len(expected)
    assert set(labels) <= set(card.classes)
    about = yaml.safe_load((tmp_path / "out" / "prepared.yaml").read_text("utf-8"))
    assert about["card"] == name
    assert about["patient"] == card.grouping.patient


def test_patients_of_c_nmc_come_from_the_names(tmp_path: Path) -> None:
    home = tmp_path / "set"
    for i, name in enumerate(("all/UID_9_11_1_all", "all/UID_9_12_1_all", "hem/UID_H9_3_1_hem")):
        _draw(home / "C-NMC_training_data" / "fold_0" / f"{name}.bmp", i)
    fields = load_dataset(BY_NAME["c-nmc-2019"], Tally(), home)["fold_0"].fields
    assert [f.field.patient for f in fields] == ["9", "9", "H9"]
    assert fields[0].annotations.extra[0] == {"published_label": "all"}


def test_augmented_copies_share_a_group_whatever_their_names_say(tmp_path: Path) -> None:
    home = tmp_path / "set"
    for number, seed in (("_7_1", 1), ("_9_2", 2)):
        for kind, degrees in (("NEUTROPHIL", 0), ("MONOCYTE", 35)):  # names and types say nothing of copies
            path = home / "TRAIN" / kind / f"{number}{degrees}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(turned(smear(320, 240, seed), degrees), "JPEG"))
    prepare(BY_NAME["blood-cell-images"], home, tmp_path / "out", Tally())
    told = json.loads((tmp_path / "out" / "annotations" / "instances_TRAIN.json").read_text("utf-8"))
    groups = {image["file_name"].split("/")[-1]: image["group"] for image in told["images"]}
    assert groups["_7_10.jpeg"] == groups["_7_135.jpeg"] != groups["_9_20.jpeg"]
    assert groups["_9_20.jpeg"] == groups["_9_235.jpeg"]


def test_a_set_that_says_so_is_one_group(tmp_path: Path) -> None:
    home = tmp_path / "set"
    for i, name in enumerate(("NEUTROPHIL/_7_1.jpeg", "MONOCYTE/_7_3.jpeg")):
        _draw(home / "TRAIN" / name, i)
    card = BY_NAME["blood-cell-images"]
    grouped = card.model_copy(update={"grouping": card.grouping.model_copy(update={"key": "set"})})
    prepare(grouped, home, tmp_path / "out", Tally())
    told = json.loads((tmp_path / "out" / "annotations" / "instances_TRAIN.json").read_text("utf-8"))
    assert {image["group"] for image in told["images"]} == {"blood-cell-images"}


def test_leukemia_attri_keeps_attributes_and_patients(tmp_path: Path) -> None:
    home = tmp_path / "set"
    for part, seed in (("train", 1), ("test", 2)):
        _draw(home / "Images" / part / f"{seed}_15_1000_ALL.png", seed, (64, 64))
        annotation = {
            "id": 5,
            "image_id": 3,
            "category_id": 2,
            "bbox": [1, 2, 20, 30],
            "nuclear_chromatio": 1,
            "cytoplasm": 4,
        }
        data = {
            "images": [{"id": 3, "file_name": f"{seed}_15_1000_ALL.png", "width": 64, "height": 64}],
            "annotations": [annotation],
            "categories": [{"id": 2, "name": "myeloblast"}],
        }
        (home / "json_labels").mkdir(exist_ok=True)
        (home / "json_labels" / f"{part}.json").write_text(json.dumps(data), "utf-8")
    tally = Tally()
    parts = load_dataset(BY_NAME["leukemia-attri"], tally, home)
    assert {part: d.fields[0].field.patient for part, d in parts.items()} == {"train": "1", "test": "2"}
    assert parts["train"].fields[0].annotations.extra[0] == {"nuclear_chromatio": 1, "cytoplasm": 4}
    assert tally.problems == []


def test_cbc_reads_its_three_parts(tmp_path: Path) -> None:
    home = tmp_path / "set"
    for i, part in enumerate(("Training", "Testing", "Validation")):
        _draw(home / part / "Images" / f"BloodImage_0000{i}.jpg", i, (640, 480))
        folder = home / part / "Annotations"
        folder.mkdir()
        box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>50</xmax><ymax>60</ymax></bndbox>"
        size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
        xml = f"<annotation>{size}<object><name>Platelets</name>{box}</object></annotation>"
        (folder / f"BloodImage_0000{i}.xml").write_text(xml, "utf-8")
    counts = prepare(BY_NAME["cbc"], home, tmp_path / "out", Tally())
    assert counts == {"training": 1, "testing": 1, "validation": 1}


@pytest.mark.parametrize("name", [n for n, c in BY_NAME.items() if c.unavailable])
def test_a_set_that_cannot_be_had_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(BY_NAME[name], Tally(), tmp_path)


def test_an_empty_folder_names_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected paths such as"):
        load_dataset(BY_NAME["pbc"], Tally(), tmp_path)


def test_real_wbc_types_are_read_whole(shared_data: Path) -> None:
    tally = Tally()
    found = load_dataset(BY_NAME["blood-cell-images"], tally, shared_data / "wbc-types")["TRAIN"]
    assert len(found) == 9957
    assert tally.problems == []
