"""The label tree: one name a word, one root, no circles."""

from __future__ import annotations

import pytest

from detect.config import parse
from detect.errors import ConfigError
from detect.taxonomy import UNIDENTIFIED, Taxonomy, taxonomy

NAMES = [label.name for label in taxonomy().labels]


def tree(*labels: dict[str, object]) -> Taxonomy:
    return parse(Taxonomy, {"version": 1, "labels": list(labels)}, "taxonomy.yaml")


def label(name: str, parent: str | None = None, code: str | None = None, *synonyms: str) -> dict[str, object]:
    return {"name": name, "code": code or name, "parent": parent, "synonyms": synonyms}


@pytest.mark.parametrize("name", NAMES)
def test_every_label_answers_to_its_own_words(name: str) -> None:
    tree = taxonomy()
    found = tree.get(name)
    for word in (found.name, found.code, *found.synonyms):
        assert tree.resolve(word) == name
        assert tree.resolve(f" {word.upper().replace(' ', '_')}-") == name
    assert name in tree


@pytest.mark.parametrize("name", NAMES)
def test_every_label_leads_to_the_one_root(name: str) -> None:
    chain = (name, *taxonomy().ancestors(name))
    assert chain[-1] == "Cell"
    assert len(set(chain)) == len(chain)


def test_parents_stand_before_their_children() -> None:
    for found in taxonomy().labels:
        if found.parent is not None:
            assert NAMES.index(found.parent) < NAMES.index(found.name)


def test_a_differential_counts_white_cells_and_all_below_them() -> None:
    tree = taxonomy()
    for found in tree.labels:
        assert found.nucleated_wbc == tree.is_a(found.name, "WBC"), found.name


def test_words_of_the_sets_at_hand() -> None:
    tree = taxonomy()
    words = {
        "PC": "Platelet",
        "NEUTROPHIL": "Neutrophil",
        "Platelets": "Platelet",
        "erythroblast": "Nucleated RBC",
    }
    assert {word: tree.resolve(word) for word in words} == words
    assert tree.resolve("person") is None
    assert tree.resolve("") is None
    assert tree.resolve(UNIDENTIFIED) is None
    with pytest.raises(ConfigError, match="no label 'person'"):
        tree.get("person")


def test_is_a_and_common() -> None:
    tree = taxonomy()
    assert tree.is_a("FAB L1", "WBC")
    assert tree.is_a("WBC", "WBC")
    assert not tree.is_a("WBC", "FAB L1")
    assert tree.common("FAB L1", ["WBC", "Blast", "Cell"]) == "Blast"
    assert tree.common("Blast", ["Blast", "WBC"]) == "Blast"
    assert tree.common("RBC", ["WBC", "Platelet"]) is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([label("A", "Z")], "no parent 'Z'"),
        ([label("A"), label("B", "A", "a")], "'a' names both 'A' and 'B'"),
        ([label("A"), label("B", "A"), label("C", "A", None, "b")], "'b' names both 'B' and 'C'"),
        ([label("Red cell"), label("B", "Red cell", None, "RED-CELL")], "names both"),
    ],
)
def test_a_tree_that_is_none_is_refused(labels: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tree(*labels)


@pytest.mark.parametrize(
    "labels",
    [
        [label("A", "A")],
        [label("A", "B"), label("B", "A")],
        [label("Root"), label("A", "C"), label("B", "A"), label("C", "B")],
    ],
    ids=["its own parent", "two in a circle", "three in a circle"],
)
def test_a_circle_is_refused(labels: list[dict[str, object]]) -> None:
    # `ancestors` would walk it for ever.
    with pytest.raises(ConfigError):
        tree(*labels)


def test_synonyms_of_one_label_may_repeat_its_name() -> None:
    assert tree(label("WBC", None, "WBC", "wbc", "W B C")).resolve("w-b-c") == "WBC"
