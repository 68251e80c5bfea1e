"""A table of classifiers: its splits, that it goes on where it stopped, and that a leak shows."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import f1_score

from detect import assets
from detect.config import load, parse
from detect.data.typed import TypedCell
from detect.errors import ConfigError, DataError, StoreError
from tests.classify.conftest import TYPES
from tests.cli.command import inside

torch = pytest.importorskip("torch", reason="torch is not installed")

from detect.classify import answerers  # noqa: E402
from detect.classify import legs as legs_room  # noqa: E402
from detect.classify import zoo as room  # noqa: E402
from detect.classify.learn import state_of, write_weights  # noqa: E402
from detect.classify.legs import cells_of_table, legs_of  # noqa: E402
from detect.classify.recipes import recipes_of  # noqa: E402
from detect.classify.settings import ZooSettings  # noqa: E402
from detect.formats.tally import Tally  # noqa: E402

Drawn = tuple[list[TypedCell], list[TypedCell]]
ROWS: dict[str, Any] = {
    "net": {"network": "smallnet", "epochs": 6, "learning_rate": 0.004},
    "colour, tree": {"features": [{"handmade": ["colour"]}], "views": 1, "head": {"name": "decision-tree"}},
    "net, lda": {"features": [{"network": "net"}], "views": 1, "head": {"name": "lda"}},
    "both": {"members": ["net", "colour, tree"], "rule": "mean"},
}
BASE = {"image_size": 32, "margin": 0.1, "batch": 10, "precision": "fp32"}


@pytest.fixture(autouse=True, scope="module")
def _one_core(one_thread: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detect.classify.learn.cores", lambda: 1)
        yield


@pytest.fixture
def cells(drawn_cells: Drawn) -> list[TypedCell]:
    """Of three types, fifteen groups of two."""
    return list(drawn_cells[0])


@pytest.fixture
def known(cells: list[TypedCell], monkeypatch: pytest.MonkeyPatch) -> list[TypedCell]:
    """The cells that every card gives."""
    monkeypatch.setattr(legs_room, "load_typed", lambda *_, **__: cells)
    monkeypatch.setattr(legs_room, "load_card", lambda name: name)
    return cells


def table(**changes: Any) -> ZooSettings:
    """Settings."""
    return parse(ZooSettings, {"data": ["drawn"], "min_groups": 2, "folds": 3, "rows": ROWS} | changes, "z.yaml")


def write(path: Path, **changes: Any) -> Path:
    """A table's file."""
    values = {"data": ["drawn"], "min_groups": 2, "folds": 3, "base": BASE, "rows": ROWS} | changes
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


@pytest.mark.parametrize("protocol", ["folds", "holdout", "curve"])
def test_groups_stand_on_one_side(cells: list[TypedCell], protocol: str) -> None:
    legs = legs_of(table(protocol=protocol, shares=(0.5, 1.0)), cells)
    for leg in legs:
        parts = [{c.group for c in part} for part in (leg.train, leg.dev, leg.test)]
        assert all(parts)
        assert not any(a & b for a, b in ((parts[0], parts[1]), (parts[0], parts[2]), (parts[1], parts[2])))
    if protocol == "folds":
        held = [c.id for leg in legs for c in leg.test]
        assert sorted(held) == sorted(c.id for c in cells)
    if protocol == "curve":
        assert len({leg.name for leg in legs}) == len(legs)
        assert [leg.kind for leg in legs[:2]] == ["50.0% of groups", "100.0% of groups"]
        assert legs[0].test == legs[1].test
        assert {c.id for c in legs[0].train} < {c.id for c in legs[1].train}
        assert {c.type for c in legs[0].train} == set(TYPES)


def test_a_source_is_held_out_with_its_copies(cells: list[TypedCell]) -> None:
    mixed = [replace(c, source="a" if i % 4 < 2 else "b/c d") for i, c in enumerate(cells)]
    mixed[2] = replace(mixed[2], group=mixed[0].group)  # a copy in another source
    legs = legs_of(table(protocol="sources"), mixed)
    assert [leg.name for leg in legs] == ["a", "b-c d"]
    held = {c.id for c in legs[0].test}
    assert held == {c.id for c in mixed if c.source == "a"}
    assert mixed[2].id not in {c.id for c in (*legs[0].train, *legs[0].dev)}
    alone = [replace(c, source="a" if c.type == TYPES[0] else "b") for c in cells]
    with pytest.raises(DataError, match=f"nothing is left to learn {TYPES[0]}"):
        legs_of(table(protocol="sources"), alone)
    with pytest.raises(DataError, match="one source only"):
        legs_of(table(protocol="sources"), cells)


def test_rare_types_are_listed_and_a_leak_is_made_on_purpose(known: list[TypedCell]) -> None:
    kept, rare = cells_of_table(table(), Tally())
    assert rare == {}
    assert len({c.group for c in kept}) == 15
    leaking, _ = cells_of_table(table(leak=True), Tally())
    assert len({c.group for c in leaking}) == 15
    apart, together = (legs_of(table(leak=leak), known)[0] for leak in (False, True))
    assert not {c.group for c in apart.train} & {c.group for c in apart.test}
    assert {c.group for c in together.train} & {c.group for c in together.test}
    one, _ = cells_of_table(table(most_a_group=1), Tally())
    assert len(one) == len({(c.group, c.type) for c in known}) == 30
    known[:] = [c for i, c in enumerate(known) if c.type != TYPES[2] or i < 3]  # one group of that type is left
    kept, rare = cells_of_table(table(), Tally())
    assert rare == {TYPES[2]: 1}
    assert {c.type for c in kept} == set(TYPES[:2])
    with pytest.raises(DataError, match="0 types with 99 groups"):
        cells_of_table(table(min_groups=99), Tally())


@pytest.fixture
def made(known: list[TypedCell], tmp_path: Path) -> tuple[Path, list[room.Row]]:
    """A whole table."""
    rows, _ = room.zoo(str(write(tmp_path / "z.yaml")), tmp_path / "out", rounds=20)
    return tmp_path, rows


def test_the_table_says_what_the_answers_say(made: tuple[Path, list[room.Row]], known: list[TypedCell]) -> None:
    home, rows = made
    assert {r.name for r in rows} == set(ROWS)
    type_of = {c.id: c.type for c in known}
    for row in rows:
        truth, answer = [], []
        for path in sorted((home / "out" / "answers" / row.name).glob("*.csv")):
            lines = path.read_text().splitlines()
            assert json.loads(lines[0].removeprefix("# "))["cells"]["test"] == len(lines) - 2
            for line in csv.DictReader(lines[1:]):
                truth.append(type_of[line["cell"]])
                answer.append(max(TYPES, key=lambda t: float(line[t])))
        assert len(truth) == len(known)
        assert row.report.macro_f1.value == pytest.approx(f1_score(truth, answer, average="macro"))
    told = json.loads((home / "out" / "zoo.json").read_text())
    assert [r["name"] for r in told["rows"]] == [r.name for r in rows]
    text = (home / "out" / "zoo.md").read_text()
    assert all(f"| {name} |" in text for name in ROWS)
    assert "3 grouped folds" in text
    assert not (home / "out" / "models").exists()
    ranked = [r.report.macro_f1.value for r in rows if r.converged]
    assert ranked == sorted(ranked, reverse=True)
    assert [r.converged for r in rows] == sorted((r.converged for r in rows), reverse=True)


def test_a_table_goes_on_where_it_stopped(
    known: list[TypedCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = str(write(tmp_path / "z.yaml")), tmp_path / "out"
    fitted: list[str] = []
    theirs = room.fit

    def watched(recipe: Any, task: Any, folder: Path) -> Any:
        if len(fitted) == 5:
            raise KeyboardInterrupt
        fitted.append(f"{folder.parent.name} {folder.name}")
        return theirs(recipe, task, folder)

    monkeypatch.setattr(room, "fit", watched)
    with pytest.raises(KeyboardInterrupt):
        room.zoo(config, out, rounds=20)
    first = {p: p.read_bytes() for p in out.glob("answers/**/*.csv")}
    assert len(first) == 5
    monkeypatch.setattr(room, "fit", lambda *a: (fitted.append(f"{a[2].parent.name} {a[2].name}"), theirs(*a))[1])
    rows, _ = room.zoo(config, out, rounds=20)
    assert len(rows) == 4
    assert all(p.read_bytes() == data for p, data in first.items())
    assert len(fitted) == len(set(fitted)) == 12
    again, _ = room.zoo(config, out, rounds=20)
    assert len(fitted) == 12
    assert [r.report.macro_f1 for r in again] == [r.report.macro_f1 for r in rows]
    assert not any(
        "type" in p.read_text("utf-8") for p in out.glob("answers/**/*.csv")
    )  # the set's labels are not kept
    (out / "cells.csv").unlink()
    moved = out.rename(tmp_path / "elsewhere")
    elsewhere, _ = room.zoo(config, moved, rounds=20)
    assert len(fitted) == 12
    assert [r.report.macro_f1 for r in elsewhere] == [r.report.macro_f1 for r in rows]
    out = moved.rename(out)
    path = next(out.glob("answers/**/*.csv"))
    whole = path.read_text("utf-8")
    path.write_text("\n".join(whole.splitlines()[:-1]) + "\n", "utf-8")
    with pytest.raises(StoreError, match="answers for other cells"):
        room.zoo(config, out, rounds=20)
    path.write_text(whole, "utf-8")
    with pytest.raises(ConfigError, match="differ"):
        room.zoo(str(write(tmp_path / "other.yaml", seed=2)), out, rounds=20)
    known[0] = replace(known[0], group="another")
    with pytest.raises(StoreError, match="begun with"):
        room.zoo(config, out, rounds=20)


def test_what_changed_is_made_anew_and_nothing_else(
    known: list[TypedCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fitted, theirs = tmp_path / "out", [], room.fit
    rows = {"net": ROWS["net"], "net, lda": ROWS["net, lda"], "colour, tree": ROWS["colour, tree"]}
    monkeypatch.setattr(room, "fit", lambda *a: (fitted.append(a[2].name), theirs(*a))[1])
    room.zoo(str(write(tmp_path / "z.yaml", rows=rows)), out, rounds=20)
    assert fitted == [name for name in rows for _ in range(3)]
    fitted.clear()
    shorter = {"net": {**ROWS["net"], "epochs": 5}}
    room.zoo(str(write(tmp_path / "z.yaml", rows=rows | shorter)), out, only=["net, lda", "colour, tree"], rounds=20)
    assert fitted == ["net, lda"] * 3  # the network that it is made of is another
    fitted.clear()
    monkeypatch.setattr(room, "code", lambda **_: "another")
    kept, _ = room.zoo(str(tmp_path / "z.yaml"), out, keep_stale=True, rounds=20)
    assert fitted == []
    assert {r.name for r in kept} == set(rows)
    room.zoo(str(tmp_path / "z.yaml"), out, only=["colour, tree"], rounds=20)
    assert fitted == ["colour, tree"] * 3


def test_weights_count_by_what_they_are_not_by_where_they_lie(
    known: list[TypedCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"net": {**ROWS["net"], "pretrained": str(tmp_path / "a.safetensors")}}
    body = answerers.networks.build(rows["net"]["network"], 2, 32)
    write_weights(state_of(body), tmp_path / "a.safetensors")
    out, fitted, theirs = tmp_path / "out", [], room.fit
    monkeypatch.setattr(room, "fit", lambda *a: (fitted.append(a[2].name), theirs(*a))[1])
    room.zoo(str(write(tmp_path / "z.yaml", rows=rows)), out, rounds=20)
    assert len(fitted) == 3
    rows["net"]["pretrained"] = str((tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors"))
    room.zoo(str(write(tmp_path / "z.yaml", rows=rows)), out, rounds=20)
    assert len(fitted) == 3
    plain = {"net": ROWS["net"]}
    made: list[str] = []

    def weights() -> Path:
        made.append("made")
        return tmp_path / "b.safetensors"

    config = str(write(tmp_path / "p.yaml", rows=plain))
    room.zoo(config, tmp_path / "begun", rounds=20, begun={"net": room.Begun("key", weights)})
    assert (len(fitted), len(made)) == (6, 3)
    room.zoo(config, tmp_path / "begun", rounds=20, begun={"net": room.Begun("key", weights)})
    assert (len(fitted), len(made)) == (6, 3)  # what is done needs no weights
    room.zoo(config, tmp_path / "begun", rounds=20, begun={"net": room.Begun("other", weights)})
    assert (len(fitted), len(made)) == (9, 6)


def test_two_processes_share_a_table(known: list[TypedCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another fits the network of a hybrid, who needs it waits, and then takes it."""
    rows = {"net": ROWS["net"], "net, lda": ROWS["net, lda"]}
    config, out, fitted, theirs = str(write(tmp_path / "z.yaml", rows=rows)), tmp_path / "out", [], room.fit

    def slow(*given: Any) -> Any:
        fitted.append(given[2].name)
        time.sleep(0.3)
        return theirs(*given)

    monkeypatch.setattr(room, "fit", slow)
    each = [Thread(target=room.zoo, args=(config, out), kwargs={"only": [name], "rounds": 20}) for name in rows]
    for one in each:
        one.start()
    for one in each:
        one.join()
    assert sorted(fitted) == sorted([*["net"] * 3, *["net, lda"] * 3])
    told = json.loads((out / "zoo.json").read_text())
    assert {r["name"] for r in told["rows"]} == set(rows)
    assert not list(out.rglob("*.partial"))


def test_a_misspelt_key_of_the_base_is_refused_and_steps_reach_every_part(
    known: list[TypedCell], tmp_path: Path
) -> None:
    wrong = inside("evaluate", "zoo", write(tmp_path / "z.yaml", base=BASE | {"epochz": 3}), "--out", tmp_path / "out")
    assert wrong.code == 2
    assert "epochz" in wrong.err
    base = BASE | {"preprocess": [{"name": "MedianDenoise"}]}
    rows, _ = room.zoo(str(write(tmp_path / "z.yaml", base=base)), tmp_path / "out", only=["both"], rounds=20)
    assert [r.name for r in rows] == ["both"]


def test_only_the_rows_that_are_asked_for(known: list[TypedCell], tmp_path: Path) -> None:
    config, out = str(write(tmp_path / "z.yaml")), tmp_path / "out"
    rows, _ = room.zoo(config, out, only=["colour, tree"], rounds=20)
    assert [r.name for r in rows] == ["colour, tree"]
    assert rows[0].converged
    with pytest.raises(ConfigError, match="no row 'tree'"):
        room.zoo(config, out, only=["tree"], rounds=20)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"a": {"network": "resnet"}}, "rows.a"),
        ({"a": {"netwrk": "resnet18"}}, "did you mean 'network'"),
        ({"a": {"network": "lenet", "margin": 0.5}, "b": {"members": ["a", "a"], "rule": "mean"}}, "differ in margin"),
        ({"a": {"members": ["b", "c"], "rule": "mean"}}, "no file 'b'"),
        ({"a": {"members": ["a", "a"], "rule": "mean"}}, "a part of itself"),
        (
            {"a": {"members": ["b", "b"], "rule": "mean"}, "b": {"members": ["a", "a"], "rule": "mean"}},
            "part of itself",
        ),
        ({"a": {"network": "lenet", "stages": [{"data": ["x"], "split": "s", "epochs": 1}]}}, "stages"),
        ({"../a": {"network": "lenet"}}, "no name of a row"),
        (
            {
                "a": {"features": [{"network": "b"}], "head": {"name": "lda"}},
                "b": {"features": [{"handmade": ["hu"]}], "head": {"name": "lda"}},
            },
            "b is no network",
        ),
        (
            {
                "a": {"members": ["b", "c"], "rule": "mean"},
                "b": {"features": [{"handmade": ["hu"]}], "head": {"name": "lda"}},
                "c": {"features": [{"handmade": ["dct"]}], "head": {"name": "lda"}},
            },
            "measure different",
        ),
    ],
)
def test_a_wrong_row_is_found_before_any_is_fitted(tmp_path: Path, rows: dict[str, Any], words: str) -> None:
    answer = inside("evaluate", "zoo", write(tmp_path / "z.yaml", rows=rows), "--out", tmp_path / "out")
    assert answer.code == 2
    assert words in answer.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(known: list[TypedCell], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        room.zoo(str(write(tmp_path / "z.yaml")), tmp_path / "out")


@pytest.mark.parametrize("path", sorted((assets.ROOT / "configs" / "zoo").glob("*.yaml")), ids=lambda p: p.stem)
def test_packaged_tables_name_what_there_is(path: Path) -> None:
    settings = load(ZooSettings, path)
    assert set(recipes_of(settings, str(path))) == set(settings.rows)


def test_the_two_tables_of_a_leak_differ_in_nothing_else() -> None:
    home = assets.ROOT / "configs" / "zoo"
    a, b = (load(ZooSettings, home / f"leak-by-{n}.yaml") for n in ("picture", "original"))
    assert a.leak
    assert a.model_copy(update={"leak": False}) == b


def test_shares_of_groups_are_drawn_by_type(cells: list[TypedCell]) -> None:
    for share in (0.2, 0.5):
        kept = legs_room._share(cells, share, 1)
        for kind in TYPES:
            whole = {c.group for c in cells if c.type == kind}
            assert len({c.group for c in kept if c.type == kind}) >= max(1, round(share * len(whole)))
    assert np.array_equal([c.id for c in legs_room._share(cells, 1.0, 1)], [c.id for c in cells])
