"""A set's labels in a model's classes."""

from __future__ import annotations

import pytest

from detect.errors import DataError
from detect.evaluate.align import align
from detect.types import Annotations, ClassMap, Dataset
from tests.evaluate.records import dataset, labelled

MODEL = ClassMap(("WBC", "RBC", "Platelet"))


def typed(names: tuple[str, ...], exhaustive: tuple[str, ...] | None = None) -> Dataset:
    """One field with one cell of each name."""
    boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(len(names))]
    cells = Annotations.of(boxes, list(range(len(names))), ids=[100 + i for i in range(len(names))])
    return dataset([labelled(cells)], ClassMap(names), exhaustive)


def test_typed_cells_become_what_the_model_finds() -> None:
    got = align(typed(("Eosinophil", "Lymphoblast", "RBC")), MODEL)
    cells = got.fields[0].annotations
    assert got.classes == MODEL
    assert [MODEL.names[i] for i in cells.labels] == ["WBC", "WBC", "RBC"]
    assert cells.ids == (100, 101, 102)
    assert cells.boxes[:, 0].tolist() == [0, 10, 20]


def test_the_nearest_class_above_is_taken() -> None:
    got = align(typed(("Segmented neutrophil", "Monocyte")), ClassMap(("WBC", "Neutrophil")))
    assert got.fields[0].annotations.labels.tolist() == [1, 0]


def test_cells_that_the_model_has_no_class_for_are_no_truths() -> None:
    got = align(typed(("Neutrophil", "Smudge cell", "something else")), MODEL)
    cells = got.fields[0].annotations
    assert cells.ids[0] == 100
    assert (~cells.crowd).sum() == 1


def test_no_label_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match="no label of random") as caught:
        align(typed(("Smudge cell", "Artefact")), MODEL)
    assert "WBC, RBC, Platelet" in str(caught.value)


def test_a_model_of_types_cannot_be_measured_on_plain_cells() -> None:
    with pytest.raises(DataError):
        align(typed(("WBC", "RBC")), ClassMap(("Neutrophil", "Lymphocyte")))


def test_exhaustive_types_make_their_class_exhaustive() -> None:
    got = align(typed(("Neutrophil", "Lymphocyte", "RBC"), ("Neutrophil", "Lymphocyte")), MODEL)
    assert got.exhaustive_for == {"WBC"}


def test_one_type_that_is_not_exhaustive_spoils_its_class() -> None:
    got = align(typed(("Neutrophil", "Lymphocyte", "RBC"), ("Neutrophil", "RBC")), MODEL)
    assert got.exhaustive_for == {"RBC"}


def test_the_given_set_is_left_alone() -> None:
    data = typed(("Eosinophil", "RBC"))
    align(data, MODEL)
    assert data.classes.names == ("Eosinophil", "RBC")
    assert data.fields[0].annotations.labels.tolist() == [0, 1]
