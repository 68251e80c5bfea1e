"""Slides and results at a URL: an S3 of the tests' own, the real command, kills, and another machine that goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from detect.errors import DataError, ImageError, LedError, StoreError
from detect.score.mirror import Mirror
from detect.score.plan import make
from detect.score.reading import Reader
from detect.score.remote import Bringer, Links, Sink, bring_all, is_url, places
from tests.cli.command import SCRIPT, inside, smear
from tests.score.conftest import SMALL
from tests.score.test_resume import results

pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 on this machine, and a client of it; whoever looks for Amazon's finds this one."""
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in told.items():
            patch.setenv(key, value)
        yield boto3.client("s3", endpoint_url=told["AWS_ENDPOINT_URL"])
    server.stop()


@pytest.fixture
def bucket(s3: Any, night: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket that holds the slides of a night."""
    name = "b" + str(abs(hash(request.node.name)))
    s3.create_bucket(Bucket=name)
    for path in night.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), name, f"slides/{path.relative_to(night).as_posix()}")
    yield name
    for key in keys(s3, name):
        s3.delete_object(Bucket=name, Key=key)
    s3.delete_bucket(Bucket=name)


def keys(s3: Any, bucket: str, prefix: str = "") -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def downloaded(s3: Any, bucket: str, prefix: str, to: Path) -> Path:
    """What lies below a prefix, as a folder here."""
    for key in keys(s3, bucket, prefix):
        path = to / key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, key, str(path))
    return to


def told(out: Path, place: str) -> dict[str, bytes]:
    """The bytes of a run, but for the place that its report names."""
    url = place if place.startswith("/") else f"s3://{place}/slides"
    return {name: data.replace(url.encode(), b"HERE") for name, data in results(out).items()}


def test_a_run_at_a_url_is_that_of_a_folder(s3: Any, bucket: str, whole: Path, night: Path, tmp_path: Path) -> None:
    there = (f"s3://{bucket}/slides", "--out", f"s3://{bucket}/out", "--work", tmp_path / "work")
    answer = inside("score", *there, *SMALL)
    assert answer.code == 0, answer.err
    assert f"s3://{bucket}/out/report/index.html" in answer.out
    assert told(downloaded(s3, bucket, "out/", tmp_path / "got"), bucket) == told(whole, str(night))
    assert not any((tmp_path / "work").iterdir())  # no copy of a picture stays
    again = inside("score", *there, *SMALL)
    assert again.code == 2
    assert "not empty" in again.err
    s3.put_object(Bucket=bucket, Key="out/mine.txt", Body=b"mine")
    kept = inside("score", *there, *SMALL, "--overwrite")
    assert kept.code == 2
    assert "'mine.txt', which no scoring run wrote" in kept.err
    assert "out/mine.txt" in keys(s3, bucket)
    assert "out/run.yaml" in keys(s3, bucket)


@pytest.mark.long
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same machine", "another machine"])
def test_a_run_that_was_killed_is_gone_on_with(
    s3: Any, bucket: str, whole: Path, night: Path, tmp_path: Path, elsewhere: bool
) -> None:
    there = (f"s3://{bucket}/slides", "--out", f"s3://{bucket}/out", "--work", str(tmp_path / "work"))
    process = subprocess.Popen([SCRIPT, "score", *there, *SMALL], stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 120
    while len(keys(s3, bucket, "out/cells/")) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = len(keys(s3, bucket, "out/cells/"))
    assert 3 <= done < 12
    if elsewhere:
        shutil.rmtree(tmp_path / "work")
    answer = inside("score", *there, "--resume")
    assert answer.code == 0, answer.err
    assert told(downloaded(s3, bucket, "out/", tmp_path / "got"), bucket) == told(whole, str(night))
    journal = (tmp_path / "got" / "journal.jsonl").read_text()
    assert journal.count('"event": "part"') == 12  # what was done was not done again
    assert '"resumed"' in journal


@pytest.mark.long
def test_a_cluster_works_at_a_url(s3: Any, bucket: str, whole: Path, night: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    there = (f"s3://{bucket}/slides", "--out", f"s3://{bucket}/out", "--work", tmp_path / "work")
    answer = smear("score", *there, *SMALL, "--engine", "ray")
    assert answer.code == 0, answer.err
    assert told(downloaded(s3, bucket, "out/", tmp_path / "got"), bucket) == told(whole, str(night))


def test_what_cannot_be_reached_is_said_in_words(s3: Any, bucket: str, tmp_path: Path) -> None:
    for place, words in (
        (f"s3://{bucket}/nothing", "nothing in it"),
        ("s3://no-such-bucket-anywhere/slides", "no-such-bucket-anywhere"),
        ("gopher://a/b", "gopher"),
    ):
        answer = inside("score", place, "--out", tmp_path / "out", "--work", tmp_path / "work")
        assert answer.code == 2, answer.err
        assert words in answer.err.replace("\n", "")
        assert "Traceback" not in answer.err


def test_a_worker_elsewhere_fetches_what_it_reads_and_keeps_nothing(
    s3: Any, bucket: str, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = Links(input=f"s3://{bucket}/slides", token="of this run")
    planned = make(bring_all(links, tmp_path / "leader" / "slides"), batch=2).rows
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "smear-fetched-999999999-of-a-dead-one").mkdir()
    bringer = Bringer(links, tmp_path / "leader" / "slides")  # no mark of this run: another machine's folder
    reader = Reader(tmp_path, lambda _: None, bringer)

    def held() -> list[str]:
        return sorted(p.name for p in (tmp_path / "there").rglob("*") if p.is_file())

    shutil.rmtree(tmp_path / "leader")
    picture = reader.read(planned[0])
    assert (picture.width, picture.height) == picture.pixels.shape[1::-1]
    assert held() == [Path(planned[0].field.id).name]
    assert not list((tmp_path / "there").glob("*dead*"))
    with ThreadPoolExecutor(4) as pool:  # several threads at one file
        assert len({p.pixels.tobytes() for p in pool.map(reader.read, [planned[3]] * 8)}) == 1
    bringer.forget()
    assert held() == []
    s3.delete_object(Bucket=bucket, Key=f"slides/{planned[1].field.id}")
    with pytest.raises(ImageError, match="vanished since the run was planned"):
        reader.read(planned[1])
    s3.put_object(Bucket=bucket, Key=f"slides/{planned[2].field.id}", Body=(night / planned[3].field.id).read_bytes())
    with pytest.raises(ImageError, match="changed since the run was planned"):
        reader.read(planned[2])
    for key in keys(s3, bucket):
        s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(DataError, match="cannot be reached"):  # not one field after another
        reader.read(planned[4])


def test_only_what_changed_is_fetched_again(s3: Any, bucket: str, night: Path, tmp_path: Path) -> None:
    url, here = Links(f"s3://{bucket}/slides"), tmp_path / "slides"
    first = bring_all(url, here)
    ids = [f.id for f in first.fields]
    assert len(ids) == 24
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}
    s3.put_object(Bucket=bucket, Key=f"slides/{ids[0]}", Body=(night / ids[1]).read_bytes())
    s3.delete_object(Bucket=bucket, Key=f"slides/{ids[2]}")
    s3.put_object(Bucket=bucket, Key="slides/new/f.jpg", Body=b"new")
    strange = ["../../escaped.jpg", "", "folder/", "a//b.jpg", "c\\d.jpg", "e", "e/f.jpg", f"long/{'x' * 250}.jpg"]
    for key in strange:
        s3.put_object(Bucket=bucket, Key=f"slides/{key}", Body=b"bad")
    second = bring_all(url, here)
    odd = {"../../escaped.jpg", "a//b.jpg", "c\\\\d.jpg", "e/f.jpg", f"long/{'x' * 250}.jpg"}
    assert {f.id for f in second.fields} == {*ids, "new/f.jpg"} - {ids[2]} | odd
    assert not any(f.path.exists() for f in second.fields if f.id in odd)
    assert [f.id for f in bring_all(url, here).fields] == [f.id for f in second.fields]
    changed = {p for p in before if p.is_file() and p.stat().st_mtime_ns != before[p]}
    assert changed == {here / ids[0]}
    assert not (tmp_path.parent / "escaped.jpg").exists()
    assert (here / ids[0]).read_bytes() == (night / ids[1]).read_bytes()


def test_places_and_plain_folders(tmp_path: Path) -> None:
    assert is_url("s3://b/x")
    assert not is_url("C:/slides")
    plain = places("in", "out")
    assert (plain.folder, plain.out, plain.links) == (Path("in"), Path("out"), Links())
    both = places("s3://b/night/", "s3://b/out", tmp_path)
    assert both.folder.name == "night"
    assert (both.links.input, both.links.output) == ("s3://b/night", "s3://b/out")
    assert places("s3://b/night/", "s3://b/out2", tmp_path).folder != both.folder
    with pytest.raises(LedError, match="another process leads"):
        places("s3://b/night/", "s3://b/out", tmp_path)
    both.clear()
    places("s3://b/night/", "s3://b/out", tmp_path).clear()


def test_a_copy_that_does_not_go_on_from_what_is_there_is_dropped(s3: Any, bucket: str, tmp_path: Path) -> None:
    """A run was begun anew elsewhere: what is here of the older one must not be mixed with it, however long it is."""
    links, here = Links(output=f"s3://{bucket}/out"), tmp_path / "here"

    def run(folder: Path, journal: str, parts: int) -> Path:
        for number in range(parts):
            for kind in ("cells", "fields"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                (folder / kind / f"part-{number:05d}.parquet").write_text(f"{journal[:3]} {number}")
        for name in ("run.yaml", "plan.parquet"):
            (folder / name).write_text(journal[:3])
        (folder / "journal.jsonl").write_text(journal)
        return folder

    old, new = "old\n" * 30, "new\n" * 3
    run(here, old, 5)
    Sink(links, run(tmp_path / "there", new, 2)).finish([])
    Sink(links, here).again()
    assert (here / "journal.jsonl").read_text() == new
    assert sorted(p.name for p in (here / "cells").iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    (here / "journal.jsonl").write_text(new + "more\n")
    Sink(links, here).again()
    assert (here / "journal.jsonl").read_text() == new + "more\n"  # it was killed before it could send that
    (here / "fields" / "part-00002.parquet").write_text("late")
    Sink(links, here).finish([0, 1])
    (here / "fields" / "part-00002.parquet").write_text("later")
    Sink(links, here).finish([0, 1])
    assert s3.get_object(Bucket=bucket, Key="out/fields/part-00002.parquet")["Body"].read() == b"later"
    for key in keys(s3, bucket, "out/"):
        s3.delete_object(Bucket=bucket, Key=key)
    Sink(links, here).again()
    assert not here.exists()


def test_what_a_run_must_not_be_asked(tmp_path: Path) -> None:
    for folder, out, words in (
        ("s3://b/night", "s3://b/night", "overwrite the slides"),
        ("s3://b/out/night", "s3://b/out", "overwrite the slides"),
        ("smb://anna:secret@lab/night", "out", "password"),
    ):
        answer = inside("score", folder, "--out", out, "--work", tmp_path / "work")
        assert answer.code == 2
        assert words in answer.err
        assert "secret" not in answer.err


def test_results_within_the_slides_are_not_scored(s3: Any, bucket: str, night: Path, tmp_path: Path) -> None:
    s3.upload_file(str(next(night.rglob("*.jpg"))), bucket, "slides/out/report/thumb.jpg")
    found = bring_all(Links(f"s3://{bucket}/slides", f"s3://{bucket}/slides/out"), tmp_path / "slides")
    assert len(found.fields) == 24


def test_files_get_their_names_when_they_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a place that is no object store: a share, here a folder of this machine."""
    (tmp_path / "here" / "cells").mkdir(parents=True)
    (tmp_path / "here" / "cells" / "part-00000.parquet").write_bytes(b"cells")
    mirror = Mirror(f"file://{tmp_path / 'there'}", tmp_path / "here")
    assert mirror.names() == {}
    mirror.send(["cells/part-00000.parquet"])
    assert [p.name for p in (tmp_path / "there").rglob("*") if p.is_file()] == ["part-00000.parquet"]
    other = Mirror(mirror.url, tmp_path / "other")
    assert other.fetch(other.names()) == {}
    assert (tmp_path / "other" / "cells" / "part-00000.parquet").read_bytes() == b"cells"
    (tmp_path / "here" / "cells" / "part-00000.parquet").write_bytes(b"others")
    mirror.send(["cells/part-00000.parquet"])  # again
    assert (tmp_path / "there" / "cells" / "part-00000.parquet").read_bytes() == b"others"
    (tmp_path / "there" / "a").write_text("a file where a folder should be")
    monkeypatch.setattr("detect.score.mirror.WAITS", (0.01,))
    with pytest.raises(StoreError, match="cannot be reached"):
        Mirror(f"file://{tmp_path}/there/a/b", tmp_path / "here").send(["cells/part-00000.parquet"])
