"""Slides and fields of a folder, whatever else lies in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.errors import DataError
from detect.images.decode import SUFFIXES
from detect.images.folder import scan
from tests import data


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_each_sub_folder_is_a_slide(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "b/10.JPG", "a/deep/er/1.png", "a/0.tiff", "flat.bmp")
    found = scan(tmp_path)
    assert [f.id for f in found.fields] == ["a/0.tiff", "a/deep/er/1.png", "b/10.JPG", "b/2.jpg", "flat.bmp"]
    assert [f.slide for f in found.fields] == ["a", "a", "b", "b", tmp_path.name]
    assert found.slides == tuple(sorted(("a", "b", tmp_path.name)))
    assert all(f.path == tmp_path / f.id for f in found.fields)
    assert found.others == ()


def test_other_files_are_named_and_litter_is_not(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "s/1.jpg",
        "s/notes.txt",
        "s/Thumbs.db",
        "s/._1.jpg",
        ".DS_Store",
        "s/x.jpg.part",
        ".git/a.jpg",
    )
    found = scan(tmp_path)
    assert [f.id for f in found.fields] == ["s/1.jpg"]
    assert found.others == ("s/._1.jpg", "s/notes.txt", "s/x.jpg.part")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}")
    assert len(scan(tmp_path).fields) == 3


def test_a_folder_named_as_an_image_is_no_field(tmp_path: Path) -> None:
    expected = data.bad_files(tmp_path / "slide")
    found = scan(tmp_path)
    assert [f.id for f in found.fields] == sorted(f"slide/{name}" for name in expected)
    assert "slide/dangling.jpg" in {f.id for f in found.fields}  # it will be a row with a reason


def test_a_link_to_a_folder_is_followed_and_a_circle_is_not(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.jpg")
    root = tmp_path / "root"
    touch(root, "a/1.jpg", "a/b/2.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "b" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    found = scan(root)
    assert [f.id for f in found.fields] == ["a/1.jpg", "a/b/2.jpg", "linked/1.jpg"]


def test_a_folder_linked_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "c").symlink_to("b")
    assert len(scan(tmp_path).fields) == 1


def test_a_missing_folder_and_a_file_are_errors(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    for path in (tmp_path / "none", tmp_path / "1.jpg"):
        with pytest.raises(DataError, match="no such folder"):
            scan(path)


def test_an_empty_folder_has_no_fields(tmp_path: Path) -> None:
    found = scan(tmp_path)
    assert (found.fields, found.others, found.slides) == ((), (), ())


@given(names=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True))
def test_the_order_of_writing_does_not_matter(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    first, second = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    touch(first, *(f"{n}/{n}.jpg" for n in names))
    touch(second, *(f"{n}/{n}.jpg" for n in reversed(names)))
    found = [f.id for f in scan(first).fields]
    assert found == [f.id for f in scan(second).fields] == sorted(f"{n}/{n}.jpg" for n in names)


def test_the_folder_given_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "slide 7", "1.jpg")
    monkeypatch.chdir(tmp_path / "slide 7")
    found = scan(Path())
    assert [(f.id, f.slide) for f in found.fields] == [("1.jpg", "slide 7")]
