"""Who may come, from where, and what a browser may do with the answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.command import smear
from tests.web.conftest import Page, served


def test_every_answer_forbids_what_the_page_does_not_need(page: Page, upload: str) -> None:
    with page.client() as client:
        for place in (
            "/",
            f"/uploads/{upload}",
            f"/uploads/{upload}/fields/1",
            "/static/page.js",
            "/nowhere",
            "/api/x",
        ):
            answer = client.get(place)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        report = client.get(f"/uploads/{upload}/report")
        assert "sandbox" in report.headers["content-security-policy"]
        text = client.get(f"/uploads/{upload}").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", text)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "elsewhere.example"}, 421),
        ({"Host": "127.0.0.1.elsewhere.example"}, 421),
    ],
)
def test_requests_that_another_site_makes_are_refused(
    page: Page, fields: dict[str, bytes], headers: dict[str, str], status: int
) -> None:
    answer = page.send(dict(list(fields.items())[:1]), headers=headers)
    assert answer.status_code == status, answer.text


def test_a_form_without_its_secret_is_refused(page: Page, upload: str) -> None:
    with page.client() as client:
        client.get("/")
        for word in ({}, {"secret": "0" * 64}):
            answer = client.post(f"/uploads/{upload}/delete", data=word, files=[("files", ("", b""))])
            assert answer.status_code == 422
            assert "not one of this session" in answer.text
        other = re.findall(r'name="secret" value="([^"]*)"', page.client().get("/").text)[0]
        answer = client.post(f"/uploads/{upload}/delete", data={"secret": other}, files=[("files", ("", b""))])
        assert answer.status_code == 422
        assert client.get(f"/uploads/{upload}").status_code == 200


def test_whoever_comes_from_elsewhere_shows_a_token(tmp_path: Path, fields: dict[str, bytes]) -> None:
    with served(tmp_path / "data", "--host", "0.0.0.0", "--workers", 1) as page:
        assert len(page.token) >= 24
        with page.client() as client:
            assert client.get("/api/health").status_code == 200
            assert client.get("/api/uploads").status_code == 401
            assert client.get("/").status_code == 303
            assert client.get("/", follow_redirects=True).url.path == "/login"
            wrong = {"Authorization": "Bearer wrong"}
            assert client.post("/api/uploads", headers=wrong, files=[("files", ("a.jpg", b"x"))]).status_code == 401
            right = {"Authorization": f"Bearer {page.token}"}
            assert client.get("/api/uploads", headers=right).json() == []
        with page.client() as client:
            secret = re.findall(r'name="secret" value="([^"]*)"', client.get("/login").text)[0]
            word = {"secret": secret, "token": "wrong", "to": "/"}
            empty = [("files", ("", b""))]
            assert client.post("/login", data=word, files=empty).status_code == 403
            entered = client.post("/login", data=word | {"token": page.token, "to": "//elsewhere"}, files=empty)
            assert (entered.status_code, entered.headers["location"]) == (303, "/")
            assert "HttpOnly" in entered.headers["set-cookie"]
            assert client.get("/").status_code == 200
            assert client.get("/api/uploads").status_code == 200


def test_loopback_asks_for_nothing(page: Page) -> None:
    assert page.token == ""
    with page.client() as client:
        assert client.get("/").status_code == 200


def test_what_is_kept_is_nobody_elses(page: Page) -> None:
    assert page.data.stat().st_mode & 0o077 == 0
    assert (page.data / "smear-web.sqlite").stat().st_mode & 0o077 == 0
    assert (page.data / "secret").stat().st_mode & 0o077 == 0


def test_a_second_page_on_one_folder_is_refused(page: Page) -> None:
    answer = smear("web", "--port", "0", "--data", page.data)
    assert answer.code == 2
    assert "another page has this folder" in answer.err


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    before = tmp_path.stat().st_mode
    answer = smear("web", "--port", "0", "--data", tmp_path)
    assert answer.code == 2
    assert "no data folder" in answer.err
    assert tmp_path.stat().st_mode == before


@pytest.mark.parametrize("name", ["[", "a:b:c", ""])
def test_a_host_that_is_none_is_refused(page: Page, name: str) -> None:
    with page.client() as client:
        assert client.get("/", headers={"Host": name}).status_code in (400, 421)


def test_little_is_taken_where_nothing_is_uploaded(page: Page, upload: str) -> None:
    with page.client() as client:
        for place in ("/login", f"/api/uploads/{upload}/corrections"):
            answer = client.post(place, content=bytes(2 << 20), headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
