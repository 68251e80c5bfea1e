"""Cells down the taxonomy: who is asked, what is made of the answers, and what stops a route."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detect.bundles.folder import Bundle, open_bundle
from detect.classify.bundled import Answers
from detect.errors import BundleError
from detect.pipeline import route
from detect.pipeline.route import SYNTHETIC, UNFAMILIAR, Answer, Asked, Router, name_of, reach
from detect.runtime.base import EngineSettings
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.types import ClassMap, Detections, Image

WHITE = ("Neutrophil", "Lymphocyte", "Blast")
LINES, FAB = ("Lymphoblast", "Myeloblast"), ("FAB L1", "FAB L2", "FAB L3")


@dataclass
class Says:
    """What a bundle answers for every cell."""

    shares: tuple[float, ...]
    likely: tuple[int, ...]
    unfamiliar: bool = False


def bundle(name: str, classes: tuple[str, ...], **card: Any) -> Bundle:
    """A classifier of these types that is on no disk."""
    real = open_bundle("wbc-types", "classifier")
    assert real.card.classifier is not None
    section = real.card.classifier.model_copy(update={"calibration": None, "familiarity": None})
    card = {"name": name, "classes": classes, "classifier": section, "training": None, **card}
    return replace(real, card=real.card.model_copy(update=card), path=Path(name))


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, Says]:
    """Bundle name to what it answers; the tests fill it."""
    told: dict[str, Says] = {}

    class Fake:
        def __init__(self, bundle: Bundle, engine: EngineSettings, *, error: float) -> None:
            self.name, self.types, self.asked = bundle.card.name, len(bundle.card.classes), 0

        def ready(self, field: Image) -> Image:
            return field

        def cut(self, field: Image, box: Any, outline: Any) -> Any:
            return None

        def answer(self, crops: list[Any]) -> Answers:
            mine = told[self.name]
            likely = np.isin(np.arange(self.types), mine.likely)
            return Answers(
                np.tile(np.array(mine.shares, np.float32), (len(crops), 1)).reshape(len(crops), self.types),
                np.tile(likely, (len(crops), 1)).reshape(len(crops), self.types),
                np.full(len(crops), mine.unfamiliar),
            )

    monkeypatch.setattr(route, "BundleClassifier", Fake)
    return told


CLASSES = ("WBC", "RBC", "Platelet")


def asked(*nodes: tuple[Bundle, tuple[str, ...]], classes: tuple[str, ...] = CLASSES) -> Router:
    """A router over those of these nodes that can be asked behind a detector of three classes."""
    return Router(reach([Asked(*n) for n in nodes], classes)[0], EngineSettings(), 0.1)


def run(router: Router, labels: tuple[int, ...] = (0,), names: tuple[str, ...] = CLASSES) -> dict[int, Answer]:
    """Answers for the cells of one field."""
    n = len(labels)
    boxes = np.tile(np.array([5, 5, 25, 25], np.float32), (n, 1))
    classes = ClassMap(names)
    found = Detections(boxes, np.full(n, 0.9, np.float32), np.array(labels, np.int64), classes)
    return router.run([np.zeros((40, 40, 3), np.uint8)], [found])[0]


CHAIN = ((("white", WHITE), ("WBC",)), (("lines", LINES), ("Blast",)), (("fab", FAB), ("Lymphoblast",)))


def chain(without: tuple[str, ...] = ()) -> Router:
    """WBC to type, blast to lineage, lymphoblast to FAB."""
    return asked(*links(without))


def links(without: tuple[str, ...] = ()) -> list[tuple[Bundle, tuple[str, ...]]]:
    """The nodes of the chain."""
    return [(bundle(*made), ask) for made, ask in CHAIN if made[0] not in without]


def test_a_blast_goes_all_the_way_down(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.1, 0.8), (2,)), "lines": Says((0.9, 0.1), (0,)), "fab": Says((0.2, 0.7, 0.1), (1,))}
    got = run(chain(), (0, 1, 2))
    assert set(got) == {0}
    cell = got[0]
    assert (cell.type, cell.candidates, cell.flags) == ("FAB L2", (), ())
    assert cell.sure == pytest.approx(0.8 * 0.9 * 0.7)
    assert cell.probabilities["FAB L1"] == pytest.approx(0.8 * 0.9 * 0.2)
    assert cell.probabilities["Neutrophil"] == pytest.approx(0.1)


def test_what_is_asked_again_is_shared_out_anew(says: dict[str, Says]) -> None:
    """Lymphocyte or blast, of cells that the first bundle called lymphocytes."""
    says |= {"white": Says((0.1, 0.8, 0.1), (1,)), "again": Says((0.25, 0.75), (1,))}
    router = asked((bundle("white", WHITE), ("WBC",)), (bundle("again", ("Lymphocyte", "Blast")), ("Lymphocyte",)))
    cell = run(router)[0]
    assert cell.type == "Blast"
    # A tenth was a blast before it was asked again.
    assert cell.probabilities == pytest.approx({"Neutrophil": 0.1, "Lymphocyte": 0.2, "Blast": 0.1 + 0.6})
    assert cell.sure == pytest.approx(0.7)


def test_an_answer_that_says_less_takes_no_name_away(says: dict[str, Says]) -> None:
    """C-NMC's classes are Lymphoblast and WBC: no blast."""
    says |= {"white": Says((0.1, 0.8, 0.1), (1,)), "again": Says((0.25, 0.75), (1,))}
    router = asked((bundle("white", WHITE), ("WBC",)), (bundle("again", ("Lymphoblast", "WBC")), ("Lymphocyte",)))
    cell = run(router)[0]
    assert cell.type == "Lymphocyte"
    assert cell.sure == pytest.approx(0.8 * 0.75)
    says["again"] = Says((0.9, 0.1), (0,))
    assert run(router)[0].type == "Lymphoblast"


def test_an_answer_that_says_less_leaves_the_detectors_name(says: dict[str, Says]) -> None:
    says |= {"blast": Says((0.1, 0.9), (1,))}
    labels = ("Lymphocyte", "RBC", "Platelet")
    router = asked((bundle("blast", ("Lymphoblast", "WBC")), ("Lymphocyte",)), classes=labels)
    assert run(router, names=labels)[0].type == "Lymphocyte"


def test_doubt_goes_up_the_taxonomy(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.0, 0.1, 0.9), (2,)), "lines": Says((0.5, 0.5), (0, 1)), "fab": Says((1.0, 0, 0), (0,))}
    cell = run(chain())[0]
    assert (cell.type, cell.candidates) == ("Blast", LINES)
    assert cell.sure == pytest.approx(0.9)
    assert "FAB L1" not in cell.probabilities


def test_a_blast_in_doubt_does_not_hide_as_a_lymphocyte(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.8, 0.1), (1,)), "again": Says((0.6, 0.4), (0, 1))}
    router = asked((bundle("white", WHITE), ("WBC",)), (bundle("again", ("Lymphocyte", "Blast")), ("Lymphocyte",)))
    cell = run(router)[0]
    assert (cell.type, cell.candidates) == (UNIDENTIFIED, ("Lymphocyte", "Blast"))


@pytest.mark.parametrize(("likely", "unfamiliar"), [((), False), ((2,), True), ((), True), ((1, 2), True)])
def test_a_cell_like_none_has_no_name(says: dict[str, Says], likely: tuple[int, ...], unfamiliar: bool) -> None:
    says |= {"white": Says((0.0, 0.3, 0.7), likely, unfamiliar)}
    cell = run(chain(("lines", "fab")))[0]
    assert cell.type == UNIDENTIFIED
    assert (UNFAMILIAR in cell.flags) == unfamiliar
    assert set(cell.candidates) == {WHITE[i] for i in likely}


@pytest.mark.parametrize("types", [LINES, FAB, ("FAB L1",), ("Band neutrophil", "Segmented neutrophil")])
@pytest.mark.parametrize("unfamiliar", [True, False])
def test_a_bundle_of_few_types_names_no_cell_that_is_none_of_them(
    says: dict[str, Says], types: tuple[str, ...], unfamiliar: bool
) -> None:
    """What its types have in common is not what a cell is that is like none of them."""
    says |= {"few": Says(tuple(1 / len(types) for _ in types), (0,) if unfamiliar else (), unfamiliar)}
    cell = run(asked((bundle("few", types), ("WBC",))))[0]
    assert cell.type == UNIDENTIFIED


def test_a_node_behind_another_of_the_same_question_is_never_asked(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.8, 0.1), (1,)), "again": Says((0.5, 0.5), (0,))}
    nodes = (bundle("white", WHITE), ("WBC",)), (bundle("again", LINES), ("WBC",))
    reached, unreached = reach([Asked(*n) for n in nodes], CLASSES)
    assert unreached == ("again (no WBC is left to ask)",)
    assert [node.bundle.card.name for node in reached] == ["white"]
    assert run(asked(*nodes))[0].type == "Lymphocyte"


def test_whom_an_answer_left_its_name_may_be_asked_again(says: dict[str, Says]) -> None:
    """A lymphocyte that is no blast is a lymphocyte still."""
    says |= {"white": Says((0.1, 0.8, 0.1), (1,)), "blast": Says((0.1, 0.9), (1,)), "kind": Says((0.2, 0.8), (1,))}
    nodes = (
        (bundle("white", WHITE), ("WBC",)),
        (bundle("blast", ("Lymphoblast", "WBC")), ("Lymphocyte",)),
        (bundle("kind", ("Lymphocyte", "Atypical lymphocyte")), ("Lymphocyte",)),
    )
    assert reach([Asked(*n) for n in nodes], CLASSES)[1] == ()
    assert run(asked(*nodes))[0].type == "Atypical lymphocyte"


def test_an_unfamiliar_lymphoblast_stays_one(says: dict[str, Says]) -> None:
    says |= {"white": Says((0, 0, 1.0), (2,)), "lines": Says((1.0, 0), (0,)), "fab": Says((0.4, 0.4, 0.2), (0,), True)}
    cell = run(chain())[0]
    assert cell.type == "Lymphoblast"
    assert cell.flags == (UNFAMILIAR,)


@pytest.mark.parametrize("missing", ["white", "lines", "fab"])
def test_any_node_may_be_missing(says: dict[str, Says], missing: str) -> None:
    says |= {"white": Says((0, 0.1, 0.9), (2,)), "lines": Says((0.9, 0.1), (0,)), "fab": Says((0.7, 0.2, 0.1), (0,))}
    got = run(chain((missing,)))
    _, unreached = reach([Asked(*n) for n in links((missing,))], CLASSES)
    if missing == "white":
        assert got == {}
        assert [u.split()[0] for u in unreached] == ["lines", "fab"]
        assert "no Blast is given to ask" in unreached[0]
    elif missing == "lines":
        assert got[0].type == "Blast"
        assert [u.split()[0] for u in unreached] == ["fab"]
    else:
        assert got[0].type == "Lymphoblast"
        assert unreached == ()
    assert all(set(cell.probabilities).isdisjoint(dict(m for m, _ in CHAIN)[missing]) for cell in got.values())


def test_other_names_are_understood(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.1, 0.8), (2,)), "lines": Says((0.9, 0.1), (0,))}
    router = asked((bundle("white", ("neutrophils", "lymph", "immature cell")), ("WBC",)),
                   (bundle("lines", ("ALL blast", "AML blast")), ("Blast",)))  # fmt: skip
    cell = run(router)[0]
    assert cell.type == "Lymphoblast"
    assert set(cell.probabilities) == {*WHITE, *LINES}


def test_names_of_ones_own_are_kept(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.9), (1,))}
    assert run(asked((bundle("white", ("Neutrophil", "Hairy cell")), ("WBC",))))[0].type == "Hairy cell"
    says |= {"white": Says((0.4, 0.6), (0, 1))}
    assert run(asked((bundle("white", ("Neutrophil", "Hairy cell")), ("WBC",))))[0].type == UNIDENTIFIED
    says |= {"lines": Says((0.9, 0.1), (0,)), "own": Says((0.6, 0.4), (0, 1))}
    nodes = (bundle("lines", LINES), ("WBC",)), (bundle("own", ("small type", "big type")), ("Lymphoblast",))
    cell = run(asked(*nodes))[0]
    assert (cell.type, cell.candidates) == ("Lymphoblast", ("small type", "big type"))


def test_two_classes_of_one_name_are_refused(says: dict[str, Says]) -> None:
    with pytest.raises(BundleError, match=r"lymph and Lymphocyte are both 'Lymphocyte'"):
        asked((bundle("white", ("lymph", "Lymphocyte")), ("WBC",)))


def test_another_version_of_the_taxonomy_is_refused_where_its_names_cannot_be_trusted(says: dict[str, Says]) -> None:
    ours = taxonomy().version
    says |= {"white": Says((0.1, 0.1, 0.8), (2,))}
    assert run(asked((bundle("white", WHITE, taxonomy=ours - 1), ("WBC",))))[0].type == "Blast"
    with pytest.raises(BundleError, match="'Prolymphocyte' is no label") as caught:
        asked((bundle("white", (*WHITE, "Prolymphocyte"), taxonomy=ours - 1), ("WBC",)))
    assert "export it again" in str(caught.value)
    with pytest.raises(BundleError, match=f"of version {ours + 1} of the taxonomy, ours are of {ours}"):
        asked((bundle("white", WHITE, taxonomy=ours + 1), ("WBC",)))


def test_rows_say_who_knows_drawn_cells_only(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.1, 0.8), (2,)), "lines": Says((0.9, 0.1), (0,))}
    router = asked((bundle("white", WHITE), ("WBC",)), (bundle("lines", LINES, trained_on="synthetic"), ("Blast",)))
    assert run(router)[0].flags == (SYNTHETIC,)
    says["white"] = Says((0.8, 0.1, 0.1), (0,))
    assert run(router)[0].flags == ()


def test_an_empty_field_and_a_full_one(says: dict[str, Says]) -> None:
    says |= {"white": Says((0.1, 0.1, 0.8), (2,)), "lines": Says((0.9, 0.1), (0,)), "fab": Says((0.2, 0.7, 0.1), (1,))}
    router = chain()
    assert run(router, ()) == {}
    got = run(router, (0, 1) * 1500)
    assert len(got) == 1500
    assert {c.type for c in got.values()} == {"FAB L2"}


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (("FAB L1", "FAB L2"), "Lymphoblast"),
        (("FAB L1", "Myeloblast"), "Blast"),
        (("Band neutrophil", "Segmented neutrophil"), "Neutrophil"),
        (("Lymphocyte", "Blast"), UNIDENTIFIED),
        (("Neutrophil", "Smudge cell"), UNIDENTIFIED),
        (("Blast",), "Blast"),
        (("Blast", "FAB L3"), "Blast"),
        (("Hairy cell", "Blast"), UNIDENTIFIED),
        ((), UNIDENTIFIED),
    ],
)
def test_the_name_of_several(names: tuple[str, ...], name: str) -> None:
    assert name_of(names) == name
