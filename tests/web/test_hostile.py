"""Uploads that are made to do harm, or came to it on the way: each is refused in words, and nothing of it stays."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.data import encoded_files, png_claiming
from tests.pictures import encode, jpeg
from tests.pictures import smear as field
from tests.web.conftest import Page, served

GOOD = jpeg(field())
MOST = 48  # MiB of an upload of the page of these tests


def packed(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return out.getvalue()


def linked(target: str) -> bytes:
    """A zip with a symbolic link in it."""
    out, info = io.BytesIO(), zipfile.ZipInfo("a.jpg")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(info, target)
    return out.getvalue()


def device() -> bytes:
    """A zip with a device in it."""
    out, info = io.BytesIO(), zipfile.ZipInfo("a.jpg")
    info.create_system, info.external_attr = 3, 0o020666 << 16
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(info, b"")
    return out.getvalue()


def lying(size: int) -> bytes:
    """A zip whose one file says that it is so small, and is not."""
    data = bytearray(packed({"a.bmp": encode(field(), "BMP")}))
    told = len(encode(field(), "BMP"))
    return bytes(data.replace(struct.pack("<I", told), struct.pack("<I", size)))


def overlapping() -> bytes:
    """A zip of many names for the same bytes (Fifield, WOOT 2019)."""
    one = packed({"a.jpg": GOOD}, zipfile.ZIP_STORED)
    end = one.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", one[end + 16 : end + 20])[0]
    entry = one[start:end]
    entries = b"".join(entry.replace(b"a.jpg", b"%c.jpg" % (97 + i)) for i in range(20))
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 20, 20, len(entries), start, 0)
    return one[:start] + entries + tail


def encrypted() -> bytes:
    """A zip that says that it has a password."""
    data = bytearray(packed({"a.jpg": GOOD}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def misnamed(name: bytes) -> bytes:
    """A zip with a name that is no UTF-8, unmarked."""
    return packed({"aaaa.jpg": GOOD}).replace(b"aaaa.jpg", name + b"a" * (4 - len(name)) + b".jpg")


def bomb_png() -> bytes:
    """A small PNG of 10,000 x 10,000 pixels, all of them there."""
    rows = zlib.compress(bytes(1 + 10_000 * 3) * 10_000, 9)
    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hostile() -> Iterator[tuple[str, dict[str, bytes], str]]:
    """What it is, the files, and a part of what is said of them (at once, or when they were looked at)."""
    for name, (data, said) in encoded_files().items():
        if said != "ok" and name not in ("scan.svs", "phone.HEIC", "large.png"):
            yield f"broken {name}", {name: data}, ""
    yield "a slide scan", {"a.svs": b"II*\0" + bytes(200)}, ""
    yield "a phone's picture", {"a.heic": b"\0\0\0\x18ftypheic"}, "not an image"
    for name in ("../a.jpg", "../../etc/cron.d/a.jpg", "/etc/passwd.jpg", "C:\\a.jpg", "..\\a.jpg", "a/../../b.jpg"):
        yield f"the name {name}", {name: GOOD}, "leads out of its folder"
        yield f"the name {name} in a zip", {"s.zip": packed({name: GOOD})}, "leads out of its folder"
    yield "a name with a control character in a zip", {"s.zip": packed({"a\x07.jpg": GOOD})}, "control characters"
    yield "a name turned around", {"a\u202egpj.exe": GOOD}, "control characters"
    yield "a long name", {"a" * 300 + ".jpg": GOOD}, "304"
    yield (
        "a name with a zero in a zip",
        {"s.zip": packed({"aXb.jpg": GOOD}).replace(b"aXb.jpg", b"a\0b.jpg")},
        "no text",
    )
    yield "a name that is no UTF-8 in a zip", {"s.zip": misnamed(b"\xff\xfe")}, "no UTF-8"
    yield "a link in a zip", {"s.zip": linked("/etc/passwd")}, "a link"
    yield "a device in a zip", {"s.zip": device()}, "a device"
    yield "a password", {"s.zip": encrypted()}, "password"
    yield "an empty zip", {"s.zip": packed({})}, ""
    yield "half a zip", {"s.zip": packed({"a.jpg": GOOD})[:2000]}, "damaged zip"
    yield "a zip in a zip", {"s.zip": packed({"a.zip": packed({"a.jpg": GOOD})})}, "not an image"
    yield "a program in a zip", {"s.zip": packed({"a.exe": b"MZ" + bytes(300)})}, "not an image"
    yield "a large zip bomb", {"s.zip": packed({"a.bmp": bytes(30_000_000)})}, "MiB"
    yield "a zip bomb", {"s.zip": packed({"a.bmp": bytes(15_000_000)})}, "far more than it is"
    yield "a zip of empty folders", {"s.zip": packed({f"{i}/": b"" for i in range(9000)})}, "limit"
    yield "a zip of many", {"s.zip": packed({f"{i}.jpg": b"x" for i in range(900)})}, "limit"
    yield "a zip that lies of its size", {"s.zip": lying(100)}, ""
    yield "a zip whose files overlap", {"s.zip": overlapping()}, "over each other"
    yield "many pictures", {f"{i}.jpg": b"x" for i in range(60)}, "Too many files"
    yield "a PNG bomb", {"a.png": bomb_png()}, "pixels"
    yield "a claim of pixels", {"a.png": png_claiming(30_000, 30_000)}, ""
    yield "a picture and a zip", {"a.jpg": GOOD + packed({"b.jpg": GOOD})}, "something else follows"
    yield "a picture and a page", {"a.jpg": GOOD + b"<script>alert(1)</script>"}, "something else follows"
    yield "a picture and a program", {"a.png": encode(field(), "PNG") + b"MZ" + bytes(400)}, "something else follows"
    yield "a zip that ends as a picture", {"a.jpg": GOOD + packed({"b.jpg": GOOD}) + b"\xff\xd9"}, ""
    yield (
        "a drawing with a script",
        {"a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"},
        "not an image",
    )
    yield "an animation", {"a.gif": encode(field(), "GIF")}, ""
    yield "an icon", {"a.jpg": jpeg(field()[:8, :8])}, "too small"
    yield "a large file", {"a.jpg": GOOD + bytes(17 << 20)}, "larger than 16 MiB"
    yield "a large upload", {f"{i}.bmp": np.random.default_rng(i).bytes(15 << 20) for i in range(4)}, "MiB"
    yield "a program", {"a.jpg": b"\x7fELF" + bytes(4000)}, "not an image"
    yield "a pickle", {"a.jpg": b"\x80\x04cos\nsystem\n"}, "not an image"


CASES = list(hostile())


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page with small limits."""
    limits = ("--file-mib", 16, "--upload-mib", MOST, "--fields", 50, "--mega-pixels", 40, "--workers", 1)
    with served(tmp_path_factory.mktemp("strict") / "data", *limits) as page:
        page.wait(page.send({"a.jpg": GOOD}).json()["id"])
        yield page


def said_of(page: Page, files: dict[str, bytes]) -> str:
    """Why an upload is refused, at once or when it was looked at; empty where it is not."""
    try:
        answer = page.send(files)
    except httpx.RemoteProtocolError:  # refused before all was sent
        return "MiB"
    if answer.status_code != 202:
        assert answer.status_code in (400, 413, 422), answer.text
        told = answer.json()
        assert told["remedy"], told
        return f"{told['where']}: {told['error']}"
    told = page.wait(answer.json()["id"])
    return str(told["why"]) if told["state"] == "failed" else ""


@pytest.mark.parametrize(("files", "part"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_hostile_upload_is_refused_in_words(strict: Page, files: dict[str, bytes], part: str) -> None:
    said = said_of(strict, files)
    assert said, "it was taken"
    assert part in said
    assert "Traceback" not in said


def test_there_are_many_of_them() -> None:
    assert len(CASES) >= 60


def test_a_name_that_is_no_utf_8_is_refused(strict: Page) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="\xff\xfea.jpg"\r\n\r\n'
        + GOOD
        + b"\r\n--x--\r\n"
    )
    with strict.client() as client:
        answer = client.post("/api/uploads", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 422
    assert "no UTF-8" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\n\r\n", b"\x00" * 100, b"--x\r\nContent-Disposition: x\r\n\r\n"])
def test_a_form_that_is_none_is_refused(strict: Page, body: bytes) -> None:
    with strict.client() as client:
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "text/plain"):
            answer = client.post("/api/uploads", content=body, headers={"Content-Type": kind})
            assert answer.status_code == 422, (kind, answer.text)


def test_nothing_of_what_was_refused_stays_and_memory_does_not_grow(strict: Page) -> None:
    process = psutil.Process(strict.process.pid)
    for _, files, _ in CASES:
        said_of(strict, files)
    before = process.memory_info().rss
    for _ in range(3):
        for _, files, _ in CASES[-30:]:
            said_of(strict, files)
    assert process.memory_info().rss - before < 40 << 20
    with strict.client() as client:
        known = {one["id"] for one in client.get("/api/uploads", params={"most": 1000}).json()}
    assert {p.name for p in (strict.data / "uploads").iterdir()} <= known
    assert not list(Path(strict.data).glob("tmp*"))
    assert page_works(strict)


def page_works(page: Page) -> bool:
    """Whether a good upload is still scored."""
    return bool(page.wait(page.send({"a.jpg": GOOD}).json()["id"])["state"] == "done")
