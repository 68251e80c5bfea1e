"""Open, edit through FiftyOne, pull: with a real MongoDB and the real command."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycocotools import mask as rle

from detect.score.store import FieldRecord, Store
from detect.types import CellRecord
from tests.cli.command import Answer, inside
from tests.detectors.tiny import Tiny

pytestmark = pytest.mark.long
WIDE = 320  # pixels, of the drawn fields
fo: Any = None


@pytest.fixture(autouse=True, scope="module")
def library(database: str) -> Iterator[None]:
    """FiftyOne, imported after its database is there."""
    global fo
    from detect.review.database import fiftyone

    fo = fiftyone()
    yield
    for name in fo.list_datasets():
        fo.delete_dataset(name)


def opened(source: Path, annotator: str, *more: object, name: str = "set") -> Any:
    answer = inside("review", "open", source, "--annotator", annotator, "--name", name, "--no-app", *more)
    assert answer.code == 0, answer.err[-3000:]
    return fo.load_dataset(f"{name}-{annotator}")


def pulled(name: str, out: Path, code: int = 0) -> Answer:
    answer = inside("review", "pull", name, "--out", out)
    assert answer.code == code, answer.out + answer.err[-3000:]
    return answer


def coco_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "annotations" / "all.json").read_text("utf-8"))
    return told


def by_id(told: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {c["id"]: c for c in told["annotations"]}


def changes_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "changes.jsonl").read_text("utf-8").splitlines()]


def test_what_nobody_edited_comes_back_as_it_was(source: Path, tmp_path: Path) -> None:
    opened(source, "idle")
    pulled("set-idle", tmp_path / "out")
    before = json.loads((source / "annotations" / "instances_all.json").read_text())
    after = coco_of(tmp_path / "out")
    assert {i["id"]: i for i in after["images"]} == {i["id"]: i for i in before["images"]}
    assert by_id(after) == by_id(before)
    assert after["categories"] == before["categories"]
    assert changes_of(tmp_path / "out") == []
    names = yaml.safe_load((tmp_path / "out" / "yolo" / "data.yaml").read_text())["names"]
    assert list(names.values()) == ["WBC", "RBC", "Platelet"]
    assert inside("review", "diff", tmp_path / "out", "set").code == 0


def test_labels_of_yolo_come_back_byte_for_byte(tiny: Tiny, tmp_path: Path) -> None:
    opened(tiny.card, "idle", "--images", tiny.home, name="tiny")
    pulled("tiny-idle", tmp_path / "out")
    for path in (tiny.home / "labels" / "all").glob("*.txt"):
        ours = tmp_path / "out" / "yolo" / "labels" / "all" / f"images__all__{path.name}"
        assert ours.read_bytes() == path.read_bytes()


def test_two_hundred_edits_through_fiftyone_come_back_and_nothing_else(source: Path, tmp_path: Path) -> None:
    dataset = opened(source, "busy")
    rng = random.Random(7)
    told = json.loads((source / "annotations" / "instances_all.json").read_text())
    size = {i["id"]: (i["width"], i["height"]) for i in told["images"]}
    names = {c["id"]: c["name"] for c in told["categories"]}
    ids = {name: identity for identity, name in names.items()}
    expected = by_id(told)
    what: dict[int, str] = {}
    added: Counter[tuple[str, ...]] = Counter()
    samples = list(dataset)
    order = [(s, d.id) for s in samples for d in s.ground_truth.detections]
    rng.shuffle(order)
    for n, (sample, identity) in enumerate(order[:200]):
        cells = sample.ground_truth.detections
        cell = next(d for d in cells if d.id == identity)
        key = int(cell.cell)
        width, height = size[expected[key]["image_id"]]
        kind = ("label", "box", "deleted", "tags", "attributes", "added")[n % 6]
        if kind == "label":
            cell.label = rng.choice([n for n in names.values() if n != cell.label])
            expected[key] = {**expected[key], "category_id": ids[cell.label]}
        elif kind == "box":
            box = [rng.uniform(0, 0.6), rng.uniform(0, 0.6), rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.4)]
            cell.bounding_box = box
            pixels = [round(v * s, 3) for v, s in zip(box, (width, height) * 2, strict=True)]
            area = round(box[2] * width * box[3] * height, 3)
            expected[key] = {**expected[key], "bbox": pixels, "area": area}
            expected[key].pop("yolo", None)  # how its line was written before
        elif kind == "deleted":
            cells.remove(cell)
            del expected[key]
        elif kind == "tags":
            cell.tags.append("ask")
            expected[key] = {**expected[key], "tags": ["ask"]}
        elif kind == "attributes":
            cell["comment"] = f"edit {n}"
            expected[key] = {
                **expected[key],
                "attributes": {**expected[key].get("attributes", {}), "comment": f"edit {n}"},
            }
        else:
            box = [round(rng.uniform(0, 0.8), 5), 0.25, 0.125, 0.25]
            cells.append(fo.Detection(label="WBC", bounding_box=box))
            added[sample.field, *(str(round(v * s, 3)) for v, s in zip(box, (width, height) * 2, strict=True))] += 1
            continue
        what[key] = kind
    for sample in samples:
        sample.save()
    pulled("set-busy", tmp_path / "out")
    after = coco_of(tmp_path / "out")
    rows = by_id(after)
    highest = max(by_id(told))
    files = {i["id"]: i["file_name"] for i in after["images"]}
    assert {k: v for k, v in rows.items() if k <= highest} == expected
    new = Counter((files[c["image_id"]], *map(str, c["bbox"])) for k, c in rows.items() if k > highest)
    assert new == added
    log = changes_of(tmp_path / "out")
    assert {c["cell"]: c["what"] for c in log if c["before"]} == {k: [v] for k, v in what.items()}
    assert len(log) == 200
    assert {c["who"] for c in log} == {"busy"}
    assert all(c["when"] > "2026" for c in log)
    drawn = sum(len(p.read_text().splitlines()) for p in (tmp_path / "out" / "yolo" / "labels").rglob("*.txt"))
    assert drawn == len(rows)


def test_a_label_of_a_class_of_its_own_gets_a_category(source: Path, tmp_path: Path) -> None:
    dataset = opened(source, "classes")
    sample = dataset.first()
    sample.ground_truth.detections[0].label = "Eosinophil"
    sample.save()
    pulled("set-classes", tmp_path / "out")
    after = coco_of(tmp_path / "out")
    assert [c["name"] for c in after["categories"]][-1] == "Eosinophil"
    card = yaml.safe_load((tmp_path / "out" / "set-classes.yaml").read_text())
    assert card["classes"][-1] == "Eosinophil"
    assert "Eosinophil" not in card["exhaustive_for"]
    names = yaml.safe_load((tmp_path / "out" / "yolo" / "data.yaml").read_text())["names"]
    assert names[3] == "Eosinophil"


def test_a_class_outside_the_taxonomy_is_written_and_the_missing_card_is_told(source: Path, tmp_path: Path) -> None:
    dataset = opened(source, "hairy")
    sample = dataset.first()
    sample.ground_truth.detections[0].label = "Hairy cell"
    sample.save()
    answer = pulled("set-hairy", tmp_path / "out")
    assert "no dataset card: Hairy cell" in answer.out
    assert "class_map" in answer.out
    assert not (tmp_path / "out" / "set-hairy.yaml").exists()
    assert coco_of(tmp_path / "out")["categories"][-1]["name"] == "Hairy cell"
    about = yaml.safe_load((tmp_path / "out" / "review.yaml").read_text())
    assert about["classes_outside_the_taxonomy"] == ["Hairy cell"]


def test_what_a_run_measured_of_cells_and_fields_is_shown(source: Path, tmp_path: Path) -> None:
    plain = opened(source, "bare")
    names = plain.values("field")
    measures = {"quality": {"sharpness": 12.5}, "scale": 40.0, "counts": {"WBC": 1}}
    field = FieldRecord("slide", names[0], "ok", width=WIDE, height=WIDE, **measures)
    cell = CellRecord(
        "slide", names[0], 0, (10, 10, 60, 60), "WBC", 0.9, "Lymphocyte", 0.8, {"Lymphocyte": 0.8, "Monocyte": 0.2},
        ("Lymphocyte", "Monocyte"), {"diameter um": 9.5, "N:C": 4.0},
    )  # fmt: skip
    Store.create(tmp_path / "run").write_part(0, [field], [cell])
    dataset = opened(source, "measured", "--predictions", tmp_path / "run")
    shown = dataset.match(fo.ViewField("field") == names[0]).first()
    found = shown.predictions.detections[0]
    assert (found.type, found["attribute_diameter_um"], found["attribute_N_C"]) == ("Lymphocyte", 9.5, 4.0)
    assert (found["candidates"], found["unsure"]) == ("Lymphocyte 0.80, Monocyte 0.20", True)
    assert shown["quality_sharpness"] == 12.5
    assert len(dataset.filter_labels("predictions", fo.ViewField("attribute_N_C") > 3)) == 1


def test_a_removed_field_and_a_bad_box_are_told(source: Path, tmp_path: Path) -> None:
    dataset = opened(source, "rough")
    gone = dataset.first()
    dataset.delete_samples(gone)
    sample = dataset.first()
    sample.ground_truth.detections[0].bounding_box = [0.5, 0.5, 0.0, 0.2]
    sample.save()
    answer = pulled("set-rough", tmp_path / "out", code=3)
    assert "box without area" in answer.out
    assert [c["what"] for c in changes_of(tmp_path / "out")] == [["field removed"]]
    assert len(coco_of(tmp_path / "out")["images"]) == 11
    problems = [json.loads(x) for x in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert problems[0]["field"] == sample.field
    assert "11" not in answer.err


def test_a_review_is_opened_again_with_its_edits(source: Path, tmp_path: Path) -> None:
    dataset = opened(source, "again")
    sample = dataset.first()
    sample.ground_truth.detections[0].label = "Platelet"
    sample.save()
    opened(source, "again")
    pulled("set-again", tmp_path / "out")
    assert len(changes_of(tmp_path / "out")) == 1
    refused = inside("review", "pull", "set-again", "--out", tmp_path / "out")
    assert refused.code == 2
    assert "not empty" in refused.err
    unknown = inside("review", "pull", "set-nobody", "--out", tmp_path / "other")
    assert unknown.code == 2
    assert "set-again" in unknown.err


def test_other_labels_under_the_name_of_a_snapshot_are_refused(source: Path, tmp_path: Path) -> None:
    opened(source, "first", name="fixed")
    changed = json.loads((source / "annotations" / "instances_all.json").read_text())
    changed["annotations"].pop()
    other = tmp_path / "curated"
    (other / "annotations").mkdir(parents=True)
    (other / "annotations" / "instances_all.json").write_text(json.dumps(changed))
    (other / "images").symlink_to(source / "images")
    answer = inside("review", "open", other, "--annotator", "second", "--name", "fixed", "--no-app")
    assert answer.code == 2
    assert "other labels" in answer.err
    assert "--name" in answer.err


def test_conflicts_of_two_annotators_are_listed_and_agreement_told(source: Path, tmp_path: Path) -> None:
    one, two = opened(source, "ann"), opened(source, "bob")
    edits: dict[str, list[tuple[int, str, Any]]] = {
        "ann": [(0, "label", "WBC"), (1, "label", "Platelet"), (2, "box", [0.1, 0.1, 0.2, 0.2]), (3, "label", "WBC")],
        "bob": [(0, "label", "Platelet"), (1, "label", "Platelet"), (2, "label", "WBC"), (3, "delete", None)],
    }
    keys = []
    for dataset, who in ((one, "ann"), (two, "bob")):
        sample = dataset.first()
        cells = list(sample.ground_truth.detections)
        keys = [int(c.cell) for c in cells]
        for i, kind, value in edits[who]:
            if kind == "label":
                cells[i].label = value
            elif kind == "box":
                cells[i].bounding_box = value
            else:
                sample.ground_truth.detections.remove(cells[i])
        label = "WBC" if who == "ann" else "RBC"
        sample.ground_truth.detections.append(fo.Detection(label=label, bounding_box=[0.4, 0.4, 0.1, 0.1]))
        sample.save()
        pulled(f"set-{who}", tmp_path / who)
    answer = inside("review", "diff", tmp_path / "ann", tmp_path / "bob", "--out", tmp_path / "diff")
    assert answer.code == 1, answer.err
    clashes = [json.loads(x) for x in (tmp_path / "diff" / "conflicts.jsonl").read_text().splitlines()]
    highest = max(keys)
    seen = {(c["cell"], c["what"]) for c in clashes if c["cell"] in keys}
    labels = {c["cell"]: (c["a"], c["b"]) for c in clashes if c["what"] == "label"}
    assert (keys[3], "deleted") in seen
    assert (keys[1], "label") not in seen  # both said the same
    assert keys[2] not in {k for k, _ in seen}  # one moved it, the other renamed it: both can stand
    assert [c["what"] for c in clashes if c["cell"] > highest] == ["added, label"]
    assert set(labels) <= {keys[0]}
    told = json.loads((tmp_path / "diff" / "agreement.json").read_text())["agreement"]
    assert [g["of"] for g in told] == ["all cells", "edited cells"]
    assert told[0]["same"]["value"] > told[1]["same"]["value"]


def test_our_matches_are_fiftyones_where_they_measure_the_same(source: Path) -> None:
    dataset = opened(source, "judge", "--predictions", "cells-yolov8n")
    assert dataset.count("predictions.detections") > 100
    theirs = dataset.evaluate_detections(
        "predictions", gt_field="ground_truth", eval_key="coco", method="coco", iou=0.5, classwise=True, iscrowd="crowd"
    )
    assert theirs is not None
    for kind in ("tp", "fp", "fn"):
        assert dataset.values(f"smear_{kind}") == dataset.values(f"coco_{kind}")
    ours = dataset.values("predictions.detections.smear")
    assert ours == dataset.values("predictions.detections.coco")
    assert dataset.values("predictions.detections.smear_id") == dataset.values("predictions.detections.coco_id")
    results = dataset.load_evaluation_results("smear")
    assert results.confusion_matrix().trace() == sum(dataset.values("smear_tp"))
    views = dataset.list_saved_views()
    for name in ("missed white cells", "false white cells", "probable label errors", "what to label next"):
        assert name in views
        len(dataset.load_saved_view(name))
    missed = dataset.load_saved_view("missed cells of any class")
    assert len(missed) == sum(dataset.values("smear_fn"))


def test_machine_made_cells_need_a_person(tiny: Tiny, tmp_path: Path) -> None:
    pictures = tiny.home / "images" / "all"
    bundle = ("--predictions", "cells-yolov8n", "--prelabel")
    dataset = opened(pictures, "pre", *bundle, name="plain")
    made = dataset.count("ground_truth.detections")
    assert made > 100
    opened(pictures, "pre", *bundle, name="plain")
    assert dataset.count("ground_truth.detections") == made  # a second call adds nothing twice
    assert "made by a machine" in dataset.list_saved_views()
    answer = pulled("plain-pre", tmp_path / "nothing")
    assert coco_of(tmp_path / "nothing")["annotations"] == []
    assert f"{made} machine-made cells are not confirmed" in answer.out
    dataset.reload()
    some = dataset.limit(2)
    n = some.count("ground_truth.detections")
    some.tag_labels("confirmed", label_fields="ground_truth")
    pulled("plain-pre", tmp_path / "some")
    assert len(coco_of(tmp_path / "some")["annotations"]) == n
    assert {tuple(c["what"]) for c in changes_of(tmp_path / "some")} == {("confirmed",)}


def test_documents_are_those_that_fiftyone_writes(source: Path, tmp_path: Path) -> None:
    ours = opened(source, "documents")
    plain = fo.Dataset("plain-fiftyone")
    sample = fo.Sample(str(tmp_path / "a.png"), metadata=fo.ImageMetadata(width=9, height=9), tags=["all"])
    sample["ground_truth"] = fo.Detections(detections=[fo.Detection(label="WBC", bounding_box=[0, 0, 1, 1])])
    plain.add_sample(sample)
    theirs = plain._sample_collection.find_one({})
    mine = ours._sample_collection.find_one({})
    assert set(theirs) <= set(mine)
    assert {k: type(v) for k, v in theirs.items()} == {k: type(mine[k]) for k in theirs}
    cell = theirs["ground_truth"]["detections"][0]
    other = mine["ground_truth"]["detections"][0]
    assert {k: type(v) for k, v in cell.items()} == {k: type(other[k]) for k in cell}
    assert set(theirs["metadata"]) - {"size_bytes", "mime_type", "num_channels"} <= set(mine["metadata"])
    ours.first().save()  # FiftyOne takes them for its own
    import numpy as np

    from detect.review import documents

    square = {"size": [40, 60], "counts": rle.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))["counts"]}
    made = documents.cell("WBC", (5, 5, 20, 30), 60, 40, square)
    mask = fo.core.utils.deserialize_numpy_array(made["mask"])
    np.testing.assert_array_equal(mask, np.eye(40, 60, dtype=bool)[5:35, 5:25])
    assert ours.first().ground_truth.detections[0].cell


def test_the_pulled_set_trains(tiny: Tiny, tmp_path: Path) -> None:
    dataset = opened(tiny.card, "train", "--images", tiny.home, name="trains")
    sample = dataset.first()
    sample.ground_truth.detections[0].label = "RBC"
    sample.save()
    pulled("trains-train", tmp_path / "out")
    card = tmp_path / "out" / "trains-train.yaml"
    answer = inside("train", "detector", tiny.config, "--data", card, "--out", tmp_path / "run", "--device", "cpu")
    assert answer.code == 0, answer.err[-3000:]
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert record["data"] == ["trains-train"]
    assert record["fields"] == {"train": 8, "dev": 2}


def test_a_job_sent_away_and_fetched_is_an_edit_like_any_other(source: Path, tmp_path: Path) -> None:
    from tests.review import fake_backend

    fo.annotation_config.backends["fake"] = {"config_cls": "tests.review.fake_backend.FakeBackendConfig"}
    dataset = opened(source, "away")
    answer = inside("review", "send", "set-away", "--to", "fake")
    assert answer.code == 0, answer.err[-3000:]
    schema = fake_backend.SENT["schema"]["ground_truth"]
    assert schema["classes"][:3] == ["WBC", "RBC", "Platelet"]
    assert "Myeloblast" in schema["classes"]
    assert schema["attributes"]["auer_rods"]["type"] == "checkbox"
    seen: list[tuple[int, str]] = []

    def edit(labels: dict[str, dict[str, Any]]) -> None:
        cells = [(sample, identity, d) for sample, of in labels.items() for identity, d in of.items()]
        _, _, renamed = cells[3]
        renamed.label = "Basophil"
        seen.append((int(renamed.cell), "label"))
        for *_, d in cells:  # as CVAT does: whole pixels, no masks
            x, y, w, h = d.bounding_box
            d.bounding_box = [x + 0.4 / WIDE, y - 0.3 / WIDE, w + 0.4 / WIDE, h]
        sample, identity, gone = cells[7]
        del labels[sample][identity]
        seen.append((int(gone.cell), "deleted"))

    fake_backend.EDIT.append(edit)
    answer = inside("review", "fetch", "set-away")
    assert answer.code == 0, answer.err[-3000:]
    pulled("set-away", tmp_path / "out")
    log = changes_of(tmp_path / "out")
    assert sorted((c["cell"], *c["what"]) for c in log) == sorted(seen)
    assert dataset.count("ground_truth.detections.cell") == dataset.count("ground_truth.detections")


def test_a_back_end_that_cannot_be_had_is_named(source: Path) -> None:
    opened(source, "alone")
    answer = inside("review", "send", "set-alone", "--to", "paper")
    assert answer.code == 2
    assert "no back end 'paper'" in answer.err
    answer = inside("review", "fetch", "set-alone")
    assert answer.code == 2
    assert "no job" in answer.err
    answer = inside("review", "send", "set-alone", "--to", "cvat", "--view", "no such view")
    assert answer.code == 2
    assert "no saved view" in answer.err


def test_a_removed_tag_an_added_attribute_and_field_tags_come_back(source: Path, tmp_path: Path) -> None:
    dataset = opened(source, "marks")
    first, second = list(dataset)[:2]
    first.tags.append("bad focus")
    cell = first.ground_truth.detections[1]
    cell["auer_rods"] = True
    second.ground_truth = None  # emptied
    first.save()
    second.save()
    n = len(opened(source, "other").match({"field": second.field}).first().ground_truth.detections)
    pulled("set-marks", tmp_path / "out")
    log = changes_of(tmp_path / "out")
    assert [c["what"] for c in log].count(["deleted"]) == n
    assert [c["what"] for c in log if c["cell"] is None] == [["field tags"]]
    image = next(i for i in coco_of(tmp_path / "out")["images"] if i["file_name"] == first.field)
    assert image["tags"] == ["bad focus"]
    assert by_id(coco_of(tmp_path / "out"))[int(cell.cell)]["attributes"]["auer_rods"] is True


def test_an_edit_made_while_a_review_is_judged_again_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detect.review import judge

    dataset = opened(source, "race", "--predictions", "classical")
    real, once = judge._field, []

    def meanwhile(row: Any, *rest: Any) -> Any:
        made = real(row, *rest)
        if not once:  # the annotator deletes the first cell between reading and writing
            once.append(row["field"])
            sample = dataset.one(fo.ViewField("field") == row["field"])
            sample.reload(hard=True)
            sample.ground_truth.detections.pop(0)
            sample.save()
        return made

    monkeypatch.setattr(judge, "_field", meanwhile)
    opened(source, "race", "--predictions", "classical")
    pulled("set-race", tmp_path / "out")
    assert [c["what"] for c in changes_of(tmp_path / "out")] == [["deleted"]]
    row = dataset._sample_collection.find_one({"field": once[0]})
    assert all("label" in c and "error" in c for c in row["ground_truth"]["detections"])


def test_pictures_that_a_pull_would_replace_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    picture = sorted((tiny.home / "images" / "all").iterdir())[0]
    copy = tmp_path / "pics" / "a.png"
    copy.parent.mkdir()
    copy.write_bytes(picture.read_bytes())
    told = {"images": [{"id": 1, "file_name": str(copy), "width": 320, "height": 240}], "annotations": []}
    told["categories"] = [{"id": 1, "name": "WBC"}]
    (tmp_path / "labels.json").write_text(json.dumps(told))
    answer = inside("review", "open", tmp_path / "labels.json", "--annotator", "a", "--name", "absolute", "--no-app")
    assert answer.code == 2
    assert "does not lie below the folder" in answer.err
    assert copy.read_bytes() == picture.read_bytes()
    assert not copy.is_symlink()


def test_slides_without_labels_open_as_pictures(tiny: Tiny, tmp_path: Path) -> None:
    pictures = sorted((tiny.home / "images" / "all").iterdir())
    for slide, picture in (("a", pictures[0]), ("b", pictures[1])):
        (tmp_path / "slides" / slide).mkdir(parents=True)
        (tmp_path / "slides" / slide / "f.png").write_bytes(picture.read_bytes())
    dataset = opened(tmp_path / "slides", "new", name="slides")
    assert dataset.count() == 2
    assert dataset.count("ground_truth.detections") == 0
