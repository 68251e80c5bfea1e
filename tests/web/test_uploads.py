"""What is uploaded, found, said and taken away again, by the API and the forms of the real page."""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image as PilImage

from detect.bundles.folder import open_bundle
from tests.cli.command import inside, smear
from tests.data import encoded_files
from tests.pictures import smear as plain_field
from tests.web.conftest import Page, served


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Rows of a scoring run."""
    return [row for part in sorted((run / kind).glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def say(page: Page, place: str, what: str, value: str, who: str = "eve") -> httpx.Response:
    """A correction by the API."""
    with page.client() as client:
        return client.post(f"/api{place}/corrections", json={"what": what, "value": value, "who": who})


def white(page: Page, upload: str) -> list[dict[str, Any]]:
    """White cells of an upload."""
    return [c for c in page.get(f"/uploads/{upload}/cells") if c["label"] == "WBC"]


def whole(page: Page, upload: str) -> dict[str, Any]:
    """A white cell of an upload that the border does not cut: it has measurements."""
    return next(cell for cell in white(page, upload) if cell["attributes"])


def test_what_the_page_finds_is_what_smear_score_finds(
    page: Page, upload: str, fields: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in fields.items():
        path = tmp_path / "in" / "slide" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    answer = smear("score", tmp_path / "in", "--out", tmp_path / "out", "--pipeline", "page")
    assert answer.code == 0, answer.err
    names = sorted(fields)
    expected = [
        (names.index(Path(c["field"]).name) + 1, c["cell"], c["x0"], c["y0"], c["x1"], c["y1"], c["label"], c["type"])
        for c in rows(tmp_path / "out", "cells")
    ]
    found = page.get(f"/uploads/{upload}/cells")
    assert [(c["field"], c["cell"], *c["box"], c["label"], c["type"]) for c in found] == expected
    assert len(expected) > 40
    kinds = Counter(c["type"] for c in found if c["label"] == "WBC")
    told = page.get(f"/uploads/{upload}/assessment")
    assert {line["name"]: line["count"] for line in told["differential"] if line["count"]} == dict(kinds)
    csv = (tmp_path / "out" / "slides.csv").read_text().splitlines()[1:]
    for line in csv:
        _, cell, count, *_ = line.split(",")
        assert next(r["count"] for r in told["differential"] + told["beside"] if r["name"] == cell) == int(count)
    assert told["models"][0]["name"] == "cells-robust"
    assert told["models"][0]["metrics"][0]["n_groups"] > 0
    assert f"white cells {told['white']}" in told["models"][0]["answer"]


def test_a_zip_is_what_its_pictures_are(page: Page, upload: str, fields: dict[str, bytes]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        out.mkdir("slide 7")
        for name, data in fields.items():
            out.writestr(f"slide 7/{name}", data)
        out.writestr("__MACOSX/slide 7/._a.jpg", b"litter")
    answer = page.send({"slide.zip": packed.getvalue()})
    assert answer.status_code == 202, answer.text
    told = page.wait(answer.json()["id"])
    assert told["state"] == "done"
    again = [{k: v for k, v in c.items() if k != "said"} for c in page.get(f"/uploads/{told['id']}/cells")]
    assert again == [{k: v for k, v in c.items() if k != "said"} for c in page.get(f"/uploads/{upload}/cells")]
    assert page.get(f"/uploads/{told['id']}/fields")[0]["name"] == f"slide 7/{min(fields)}"


def test_a_correction_stands_beside_what_the_machine_said(page: Page, fields: dict[str, bytes]) -> None:
    mine = page.wait(page.send(fields).json()["id"])["id"]
    cell = whole(page, mine)
    place = f"/uploads/{mine}/fields/{cell['field']}/cells/{cell['cell']}"
    other = "Basophil" if cell["type"] != "Basophil" else "Monocyte"
    assert say(page, place, "type", other.lower()).status_code == 201  # synonyms and cases are resolved
    attribute = next(iter(cell["attributes"]))
    assert say(page, place, attribute, "12,5", "Adam").status_code == 201
    again = next(c for c in white(page, mine) if (c["field"], c["cell"]) == (cell["field"], cell["cell"]))
    assert again["said"]["type"] | {"at": ""} == {"machine": cell["type"], "value": other, "who": "eve", "at": ""}
    assert again["said"][attribute]["value"] == "12.5"
    assert float(again["said"][attribute]["machine"]) == cell["attributes"][attribute]
    assert {k: v for k, v in again.items() if k != "said"} == {k: v for k, v in cell.items() if k != "said"}
    told = page.get(f"/uploads/{mine}/assessment")
    lines = {line["name"]: line for line in told["differential"]}
    assert lines[other]["corrected"] == lines[other]["count"] + 1
    assert lines[cell["type"]]["corrected"] == lines[cell["type"]]["count"] - 1
    assert say(page, f"/uploads/{mine}", "RBC", "512").status_code == 201
    assert say(page, f"/uploads/{mine}/fields/1", "scale", "70").status_code == 201
    assert page.get(f"/uploads/{mine}/fields")[0]["said"]["scale"]["value"] == "70"


@pytest.mark.parametrize(
    ("what", "value", "who", "part"),
    [
        ("type", "wizard", "eve", "no type of cell"),
        ("N:C ratio of doom", "1", "eve", "has no"),
        ("type", "Monocyte", "  ", "nobody"),
        ("area px2", "-1", "eve", ""),
        ("N:C", "1,234", "eve", "thousand"),
        ("N:C", "1e5", "eve", "no number"),
        ("N:C", "1_0", "eve", "no number"),
    ],
)
def test_a_word_that_means_nothing_is_refused(
    page: Page, upload: str, what: str, value: str, who: str, part: str
) -> None:
    cell = whole(page, upload)
    answer = say(page, f"/uploads/{upload}/fields/{cell['field']}/cells/{cell['cell']}", what, value, who)
    assert answer.status_code == 422
    assert part in answer.json()["error"]
    assert answer.json()["remedy"]


def test_cells_that_people_named_are_found_by_their_looks(page: Page, fields: dict[str, bytes]) -> None:
    mine = page.wait(page.send(fields).json()["id"])["id"]
    cells = white(page, mine)
    for cell in cells[:3]:
        place = f"/uploads/{mine}/fields/{cell['field']}/cells/{cell['cell']}"
        assert say(page, place, "type", cell["type"] if cell["type"] != "unidentified" else "WBC").status_code == 201
    twin = page.wait(page.send(fields).json()["id"])["id"]
    first = cells[0]
    near = page.get(f"/uploads/{twin}/fields/{first['field']}/cells/{first['cell']}/near")
    same = [(n["upload"], n["field"], n["cell"]) for n in near if n["distance"] < 1e-3]
    assert (mine, first["field"], first["cell"]) in same
    assert all((field, cell) == (first["field"], first["cell"]) for _, field, cell in same)
    assert near == sorted(near, key=lambda n: n["distance"])


def test_exports_hold_what_people_said_and_open_for_review(
    page: Page, fields: dict[str, bytes], tmp_path: Path
) -> None:
    mine = page.wait(page.send(fields).json()["id"])["id"]
    cell = white(page, mine)[0]
    other = "Basophil" if cell["type"] != "Basophil" else "Monocyte"
    assert say(page, f"/uploads/{mine}/fields/{cell['field']}/cells/{cell['cell']}", "type", other).status_code == 201
    with page.client() as client:
        got = {
            form: client.get(f"/api/uploads/{mine}/export/{form}")
            for form in ("csv", "coco", "geojson", "review", "corrections")
        }
    assert all(answer.status_code == 200 for answer in got.values())
    coco = got["coco"].json()
    names = {c["id"]: c["name"] for c in coco["categories"]}
    said = [a for a in coco["annotations"] if a["attributes"].get("confirmed")]
    assert [names[a["category_id"]] for a in said] == [other]
    assert said[0]["attributes"]["machine type"] == cell["type"]
    assert len(coco["annotations"]) == len(page.get(f"/uploads/{mine}/cells"))
    assert [i["original_name"] for i in coco["images"]] == sorted(fields)
    lines = got["csv"].text.splitlines()
    assert len(lines) == 1 + len(coco["annotations"])
    assert sum(f",{other},,eve," in line for line in lines) == 1
    told = [json.loads(line) for line in got["corrections"].text.splitlines()]
    assert [(t["what"], t["value"], t["who"]) for t in told] == [("type", other, "eve")]
    with zipfile.ZipFile(io.BytesIO(got["geojson"].content)) as packed:
        features = [f for n in packed.namelist() for f in json.loads(packed.read(n))["features"]]
    assert len(features) == len(coco["annotations"])
    kinds = Counter(f["properties"]["classification"]["name"] for f in features)
    assert kinds[other] == 1 + sum(c["type"] == other for c in page.get(f"/uploads/{mine}/cells"))
    assert all(f["properties"]["name"].partition("#")[0] in fields for f in features)
    with zipfile.ZipFile(io.BytesIO(got["review"].content)) as packed:
        packed.extractall(tmp_path / "review")
    review, yolo = tmp_path / "review", tmp_path / "yolo"
    answer = inside("data", "convert", review / "annotations.json", yolo, "--to", "yolo", "--images", review / "images")
    assert answer.code == 0, answer.out + answer.err
    lines = [line for p in yolo.rglob("*.txt") for line in p.read_text().splitlines() if "labels" in p.as_posix()]
    assert len(lines) == len(coco["annotations"])


def test_pictures_of_one_name_and_one_that_is_unread_are_told_apart(page: Page, fields: dict[str, bytes]) -> None:
    first, second, *_ = fields.values()
    sent = [("files", ("image.jpg", data)) for data in (first, second, first, encoded_files()["zeroed.jpg"][0])]
    with page.client() as client:
        told = page.wait(client.post("/api/uploads", files=sent).json()["id"])
        found = page.get(f"/uploads/{told['id']}/fields")
        assert [f["status"] for f in found] == ["ok", "ok", "skipped", "failed"]
        assert found[2]["reason"] == "the same picture as image.jpg"
        lines = client.get(f"/api/uploads/{told['id']}/export/csv").text.splitlines()
        packed = client.get(f"/api/uploads/{told['id']}/export/review")
        unread = client.get(f"/api/uploads/{told['id']}/fields/4/picture.jpg")
    at = lines[0].split(",").index("picture") - len(lines[0].split(","))
    assert {line.split(",")[at] for line in lines[1:]} == {"1", "2"}
    with zipfile.ZipFile(io.BytesIO(packed.content)) as review:
        assert len([n for n in review.namelist() if n.startswith("images/")]) == 2
    assert unread.status_code == 422
    assert unread.json()["where"] == "image.jpg"


def test_what_is_deleted_is_gone_and_what_was_said_is_not(page: Page, fields: dict[str, bytes]) -> None:
    mine = page.wait(page.send(fields).json()["id"])["id"]
    cell = white(page, mine)[0]
    place = f"/uploads/{mine}/fields/{cell['field']}/cells/{cell['cell']}"
    assert say(page, place, "type", "Blast").status_code == 201
    assert (page.data / "uploads" / mine).is_dir()
    with page.client() as client:
        assert client.delete(f"/api/uploads/{mine}").status_code == 204
        assert client.get(f"/api/uploads/{mine}").status_code == 404
        assert client.get(f"/api/uploads/{mine}/fields/1/picture.jpg").status_code == 404
    assert not (page.data / "uploads" / mine).exists()
    with sqlite3.connect(page.data / "smear-web.sqlite") as db:
        kept = db.execute("SELECT value, sha256, x0 FROM correction WHERE upload = ?", (mine,)).fetchall()
        assert db.execute("SELECT count(*) FROM looks WHERE upload = ?", (mine,)).fetchone() == (0,)
        assert db.execute("SELECT max(name) FROM picture WHERE upload = ?", (mine,)).fetchone() == ("",)
    assert [(value, bool(digest), x0) for value, digest, x0 in kept] == [("Blast", True, cell["box"][0])]


def test_uploads_whose_time_is_over_are_deleted(fields: dict[str, bytes], tmp_path: Path) -> None:
    with served(tmp_path / "data", "--workers", 1) as page:
        mine = page.wait(page.send(fields).json()["id"])["id"]
    with sqlite3.connect(tmp_path / "data" / "smear-web.sqlite") as db:
        db.execute("UPDATE upload SET created = created - 25 * 3600")
    with served(tmp_path / "data", "--workers", 1) as page, page.client() as client:
        deadline = time.monotonic() + 30
        while (tmp_path / "data" / "uploads" / mine).exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not (tmp_path / "data" / "uploads" / mine).exists()
        assert client.get(f"/api/uploads/{mine}").status_code == 404


def test_pictures_are_served_without_what_they_carried(page: Page) -> None:
    out = io.BytesIO()
    about = PilImage.Exif()
    about[0x010E], about[0x8825] = "Mrs Miller, 4711", {1: "N"}
    PilImage.fromarray(plain_field()).save(out, "JPEG", exif=about, comment=b"Mrs Miller")
    assert b"Mrs Miller" in out.getvalue()
    told = page.wait(page.send({"a.jpg": out.getvalue()}).json()["id"])
    assert told["state"] == "done"
    with page.client() as client:
        shown = client.get(f"/api/uploads/{told['id']}/fields/1/picture.jpg").content
        packed = client.get(f"/api/uploads/{told['id']}/export/review").content
    assert shown[:2] == b"\xff\xd8"
    assert b"Miller" not in shown
    with zipfile.ZipFile(io.BytesIO(packed)) as review:
        assert all(b"Miller" not in review.read(name) for name in review.namelist())


def test_a_picture_that_cannot_be_read_is_a_field_with_a_reason(page: Page, fields: dict[str, bytes]) -> None:
    told = page.wait(page.send({**fields, "zz.jpg": encoded_files()["zeroed.jpg"][0]}).json()["id"])
    assert told["state"] == "done"
    found = page.get(f"/uploads/{told['id']}/fields")
    assert [f["status"] for f in found] == ["ok"] * len(fields) + ["failed"]
    assert "zeros" in found[-1]["reason"]
    with page.client() as client:
        shown = client.get(f"/uploads/{told['id']}").text
        assert client.get(f"/uploads/{told['id']}/fields/{len(found)}").status_code == 200
    assert "zeros" in shown


def form(page: Page, client: httpx.Client, place: str) -> dict[str, str]:
    """The hidden fields of the first form of a page."""
    text = client.get(place).text
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', text)[:1])


def test_forms_work_without_a_script(page: Page, fields: dict[str, bytes]) -> None:
    name, data = next(iter(fields.items()))
    with page.client() as client:
        hidden = form(page, client, "/")
        sent = client.post("/uploads", data=hidden | {"title": "By <b>hand</b>"}, files=[("files", (name, data))])
        assert sent.status_code == 303
        upload = sent.headers["location"].rpartition("/")[2]
        assert client.get(sent.headers["location"]).status_code == 200
        page.wait(upload)
        shown = client.get(f"/uploads/{upload}").text
        assert "By &lt;b&gt;hand&lt;/b&gt;" in shown
        cell = white(page, upload)[0]
        place = f"/uploads/{upload}/fields/{cell['field']}/cells/{cell['cell']}"
        word = hidden | {"what": "type", "value": "Blast", "who": "Ev'a"}
        kept = client.post(f"{place}/corrections", files={}, data=word, headers={"content-type": "x"})
        assert kept.status_code == 422  # no form
        kept = client.post(f"{place}/corrections", data=word, files=[("files", ("", b""))])
        assert kept.status_code == 303, kept.text
        assert "Blast" in client.get(place).text
        assert 'value="Ev&#39;a"' in client.get(place).text  # the name is remembered
        gone = client.post(f"/uploads/{upload}/delete", data=hidden, files=[("files", ("", b""))])
        assert gone.status_code == 303
        missing = client.get(f"/uploads/{upload}")
        assert missing.status_code == 404
        assert "no such upload" in missing.text


def test_samples_are_drawn_and_scored(page: Page) -> None:
    with page.client() as client:
        hidden = form(page, client, "/")
        sent = client.post("/samples", data=hidden, files=[("files", ("", b""))])
    assert sent.status_code == 303
    told = page.wait(sent.headers["location"].rpartition("/")[2])
    assert told["state"] == "done"
    assert "Drawn" in told["title"]
    assert page.get(f"/uploads/{told['id']}/assessment")["fields_ok"] == 3


def test_two_pipelines_stand_side_by_side(fields: dict[str, bytes], tmp_path: Path) -> None:
    shutil.copytree(open_bundle("cells-yolov8n", "detector").path, tmp_path / "drawn")
    card = tmp_path / "drawn" / "bundle.yaml"
    told_of = yaml.safe_load(card.read_text()) | {"name": "drawn-only", "trained_on": "synthetic"}
    card.write_text(yaml.safe_dump(told_of, sort_keys=False))
    other = tmp_path / "other.yaml"
    other.write_text(
        "title: Another detector\ntaxonomy: 1\ndetector: ./drawn\nsynthetic: true\nfab: true\n"
        "nodes: [{ask: [WBC], bundle: wbc-types}]\n"
    )
    with served(tmp_path / "data", "--workers", 1, "--pipeline", "page", "--pipeline", other) as page:
        told = page.wait(page.send(fields).json()["id"])
        assert told["state"] == "done", told
        found = page.get(f"/uploads/{told['id']}/assessment")
        with page.client() as client:
            shown = client.get(f"/uploads/{told['id']}").text
    assert [(m["pipeline"], m["name"]) for m in found["models"]] == [
        (0, "cells-robust"),
        (0, "wbc-types"),
        (0, "wbc-parts"),
        (1, "drawn-only"),
        (1, "wbc-types"),
    ]
    agreed = found["agreement"][0]
    assert (agreed["one"], agreed["other"]) == (0, 1)
    assert agreed["both"] + agreed["only_one"] == sum(line["count"] for line in found["differential"])
    assert 0 < agreed["same"] <= agreed["both"]
    assert "Another detector" in shown
    assert found["synthetic"] == ["drawn-only"]
    assert '<p class="bad"><b>Trained on drawn cells only: drawn-only.</b>' in shown
    assert [(c["pipeline"], c["question"], c["trained_on"]) for c in found["called"]] == [(1, "FAB", "synthetic")]
    assert "FAB type: not asked" in shown
    assert "from models trained on drawn cells only" in shown


def test_outlines_of_cells_are_drawn_where_there_are_any(fields: dict[str, bytes], tmp_path: Path) -> None:
    other = tmp_path / "classical.yaml"
    other.write_text("title: Nothing learnt\ntaxonomy: 1\ndetector: classical\n")
    with served(tmp_path / "data", "--workers", 1, "--pipeline", other) as page:
        told = page.wait(page.send(fields).json()["id"])
        assert told["state"] == "done", told
        cells = page.get(f"/uploads/{told['id']}/cells?field=1")
        with page.client() as client:
            shown = client.get(f"/uploads/{told['id']}/fields/1").text
            cell = client.get(f"/uploads/{told['id']}/fields/1/cells/{cells[0]['cell']}")
            none = client.get(f"/api/uploads/{told['id']}/fields/1/cells/{cells[0]['cell']}/map.jpg")
    assert cells
    assert all(c["mask"] for c in cells)
    assert shown.count('<path d="M') == len(cells)
    assert cell.status_code == 200
    assert "was asked" not in cell.text
    assert none.status_code == 404


def test_metrics_and_health(page: Page, upload: str) -> None:
    assert page.get("/health")["state"] == "ok"
    with page.client() as client:
        text = client.get("/api/metrics").text
    assert re.search(r'smear_web_uploads\{state="done"\} [1-9]', text)
    assert upload not in text
