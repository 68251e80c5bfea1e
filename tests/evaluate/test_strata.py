"""How sources and magnifications are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detect.evaluate.strata import by_magnification, by_source, red_diameter, strata
from detect.taxonomy import taxonomy
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests.evaluate.records import dataset, labelled

NONE = Annotations.of([], [])


def fields(*names: str, size: tuple[int, int] = (400, 300)) -> Dataset:
    """Empty fields of these ids."""
    return dataset([LabelledField(Field(n, "", Path(n), *size), NONE) for n in names])


def test_what_the_set_says_comes_first() -> None:
    data = fields("lab-a/1.png", "lab-b/2.png")
    told = replace(data, fields=(replace(data.fields[0], extra={"source": "Barcelona"}), data.fields[1]))
    assert by_source(told) == ("as the set tells", ["Barcelona", "unknown"])


def test_folders_are_sources_but_parts_are_not() -> None:
    assert by_source(fields("lab-a/1.png", "lab-b/x/2.png"))[1] == ["lab-a", "lab-b"]
    assert by_source(fields("train/1.png", "valid/2.png"))[1] == ["400 x 300 px"] * 2
    assert by_source(fields("images/train/1.png", "images/val/2.png"))[1] == ["400 x 300 px"] * 2


def test_sizes_tell_nothing_where_there_are_many() -> None:
    rows = [fields(f"{i}.png", size=(100 + i, 100)).fields[0] for i in range(40)]
    rule, names = by_source(dataset(rows))
    assert set(names) == {"unknown"}
    assert "many sizes" in rule


def red(*diameters: float, label: int = 1) -> LabelledField:
    """A field of 400 pixels with red cells of these diameters, away from the border."""
    return labelled(Annotations.of([[100, 100, 100 + d, 100 + d] for d in diameters], [label] * len(diameters)))


def test_the_median_red_cell_tells_the_magnification() -> None:
    data = dataset([red(20), red(40, 70, 90), red(200), red(64), labelled(NONE), red(70, label=0)])
    expected = ["0 to 32 px", "64 to 91 px", "181 px and more", "64 to 91 px", "unknown", "unknown"]
    assert by_magnification(data) == expected


def test_cut_off_cells_are_left_out_while_there_are_whole_ones() -> None:
    cells = Annotations.of([[0, 0, 20, 20], [5, 390, 25, 400], [100, 100, 150, 150]], [1, 1, 1])
    assert red_diameter(labelled(cells), [1]) == 50
    assert red_diameter(labelled(cells.select([0])), [1]) == 20
    assert red_diameter(labelled(cells), [0]) is None


def test_labels_below_red_cell_count_and_others_do_not() -> None:
    below = next((n.name for n in taxonomy().labels if n.name != "RBC" and taxonomy().is_a(n.name, "RBC")), "RBC")
    assert strata(dataset([red(70, label=0)], ClassMap((below, "WBC")))).magnifications == ("64 to 91 px",)
    assert strata(dataset([red(70, label=0)], ClassMap(("something else", "RBC")))).magnifications == ("unknown",)
