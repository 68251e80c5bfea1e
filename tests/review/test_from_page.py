"""What the page exports opens in FiftyOne, with the types that people named."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from tests import drawn
from tests.cli.command import inside
from tests.web.conftest import served

pytestmark = pytest.mark.long


def test_an_export_of_the_page_opens_for_review(database: str, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra web is not installed")
    drawn.write_slides(tmp_path / "slides", 2, 3)
    files = {p.name: p.read_bytes() for p in sorted((tmp_path / "slides" / "slide-a").iterdir())}
    with served(tmp_path / "data", "--workers", 1) as page:
        upload = page.wait(page.send(files).json()["id"])["id"]
        cells = page.get(f"/uploads/{upload}/cells")
        white = next(c for c in cells if c["label"] == "WBC")
        place = f"/api/uploads/{upload}/fields/{white['field']}/cells/{white['cell']}/corrections"
        with page.client() as client:
            assert client.post(place, json={"what": "type", "value": "Myeloblast", "who": "eve"}).status_code == 201
            packed = client.get(f"/api/uploads/{upload}/export/review").content
    with zipfile.ZipFile(io.BytesIO(packed)) as review:
        review.extractall(tmp_path / "review")
    at = tmp_path / "review"
    words = ("--images", at / "images", "--annotator", "anna", "--name", "frompage", "--no-app")
    answer = inside("review", "open", at / "annotations.json", *words)
    assert answer.code == 0, answer.out + answer.err
    from detect.review.open import open_dataset

    dataset, *_ = open_dataset("frompage-anna")
    found = [
        d
        for sample in dataset
        for name in sample.field_names
        if hasattr(sample[name], "detections")
        for d in sample[name].detections
    ]
    assert dataset.count() == len(files)
    assert len(found) == len(cells)
    assert sum(d.label == "Myeloblast" for d in found) == 1
