"""The table of classifiers: three protocols over the same rows, and what a leak adds to each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from sklearn.metrics import f1_score

from detect import assets
from detect.config import Settings, load
from detect.data.typed import TypedCell
from detect.errors import ConfigError
from detect.evaluate.intervals import Interval

torch = pytest.importorskip("torch", reason="torch is not installed")

from detect.classify import legs as legs_room  # noqa: E402
from detect.classify.fitted_heads import HEADS  # noqa: E402
from detect.classify.networks import NETWORKS  # noqa: E402
from detect.classify.recipes import recipes_of  # noqa: E402
from detect.classify.settings import EnsembleSettings, Selection  # noqa: E402
from detect.classify.zoo_table import Held  # noqa: E402
from detect.tables import classifiers as room  # noqa: E402
from detect.tables.settings import ClassifierTable  # noqa: E402
from tests.classify.conftest import typed_cells  # noqa: E402

BASE = {"image_size": 32, "margin": 0.1, "batch": 10, "precision": "fp32"}
PROTOCOL: dict[str, Any] = {"data": ["drawn"], "min_groups": 2, "folds": 3, "base": BASE}
VALUES: dict[str, Any] = {
    "title": "Drawn types",
    "main": PROTOCOL,
    "by_original": PROTOCOL | {"protocol": "holdout", "over": {"epochs": 1}},
    "by_picture": PROTOCOL | {"protocol": "holdout", "leak": True, "over": {"epochs": 1}},
    "rows": {
        "net": {"network": "smallnet", "epochs": 3},
        "colour, tree": {"features": [{"handmade": ["colour"]}], "views": 1, "head": {"name": "decision-tree"}},
    },
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[TypedCell]:
    return typed_cells(tmp_path_factory.mktemp("typed"), 30)


@pytest.fixture
def _known(drawn: list[TypedCell], monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """The cells that a table is of."""
    monkeypatch.setattr(legs_room, "load_typed", lambda *_, **__: drawn)
    monkeypatch.setattr(legs_room, "load_card", lambda name: name)
    monkeypatch.setattr("detect.classify.learn.cores", lambda: 1)


def write(path: Path, **changes: Any) -> str:
    path.write_text(yaml.safe_dump(VALUES | changes, sort_keys=False), "utf-8")
    return str(path)


@pytest.mark.usefixtures("_known")
def test_every_row_stands_beside_what_a_leak_makes_of_it(tmp_path: Path) -> None:
    out, said = tmp_path / "out", []
    room.classifier_table(write(tmp_path / "c.yaml"), out, say=said.append)
    told = json.loads((out / "classifiers.json").read_text())["rows"]
    assert set(told) == set(VALUES["rows"])
    zoos = {p: json.loads((out / p / "zoo.json").read_text()) for p in ("main", "by-original", "by-picture")}
    for name, row in told.items():
        each = {p: next(r for r in zoo["rows"] if r["name"] == name) for p, zoo in zoos.items()}
        assert row["macro F1"] == each["main"]["macro_f1"]
        apart, mixed = each["by-original"]["macro_f1"], each["by-picture"]["macro_f1"]
        assert row["macro F1, split by original"] == apart
        assert row["what the leak adds"]["value"] == pytest.approx(mixed["value"] - apart["value"])
    assert zoos["by-original"]["rows"][0]["epochs"] <= 1
    assert next(r for r in zoos["main"]["rows"] if r["name"] == "net")["epochs"] == 3
    assert {row["both converged"] for row in told.values()} == {"no", "yes"}
    assert len(said) == 2 * (3 + 1 + 1)
    assert (out / "classifiers.png").is_file()
    said.clear()
    room.classifier_table(str(tmp_path / "c.yaml"), out, say=said.append)
    assert said == []
    with pytest.raises(ConfigError, match="no row 'tree'"):
        room.classifier_table(str(tmp_path / "c.yaml"), out, only=["tree"], say=said.append)


@pytest.mark.usefixtures("_known")
def test_hours_count_a_network_once_whoever_else_takes_it(tmp_path: Path) -> None:
    net = {"network": "smallnet", "epochs": 3}
    hybrid = {"features": [{"network": "net"}], "views": 1, "head": {"name": "decision-tree"}}
    rows = {"net": net, "net, tree": hybrid, "twice": {"members": ["net", "net, tree"], "rule": "mean"}}
    out = tmp_path / "out"
    room.classifier_table(write(tmp_path / "c.yaml", rows=rows), out, say=lambda _: None)
    told = json.loads((out / "classifiers.json").read_text())
    minutes = {name: row["minutes"] for name, row in told["rows"].items()}
    assert minutes["twice"] >= minutes["net"] + minutes["net, tree"] >= 2 * minutes["net"]
    legs = [json.loads(p.read_text())["legs"] for p in out.glob("*/rows/*.json")]
    own = sum(leg["own_seconds"] for row in legs for leg in row)
    assert told["hours"] == pytest.approx(own / 3600)
    assert own < sum(leg["seconds"] for row in legs for leg in row)


def test_the_packaged_table_names_what_there_is() -> None:
    path = assets.ROOT / "configs" / "tables" / "classifiers.yaml"
    table = load(ClassifierTable, path)
    for part in room.PARTS:
        settings = room.zoo_settings(table, getattr(table, part), str(path))
        assert set(recipes_of(settings, str(path))) == set(table.rows)


def test_the_packaged_table_holds_the_whole_zoo() -> None:
    """Every network alone, every head, every way to select, every rule of an ensemble."""
    rows = load(ClassifierTable, assets.ROOT / "configs" / "tables" / "classifiers.yaml").rows.values()
    alone = {row["network"] for row in rows if "network" in row and not {"head", "first"} & row.keys()}
    assert alone == set(NETWORKS)
    assert {row["head"]["name"] for row in rows if "features" in row} == set(HEADS)
    assert {row["head"] for row in rows if "network" in row and "head" in row} == {"orthogonal", "fuzzy"}
    assert {row["select"]["by"] for row in rows if "select" in row} == values_of(Selection, "by")
    assert {row["rule"] for row in rows if "members" in row} == values_of(EnsembleSettings, "rule")


def values_of(settings: type[Settings], key: str) -> set[str]:
    """What a key may be."""
    return set(get_args(settings.model_fields[key].annotation))


def test_what_a_leak_adds_has_limits_over_groups_drawn_for_both() -> None:
    rng = np.random.default_rng(1)
    groups = tuple(f"g{i // 3}" for i in range(90))
    truth = rng.integers(3, size=90)
    wrong = np.array([int(g[1:]) % 3 == 0 for g in groups])  # a third of the groups, all cells of each
    apart = Held(truth, np.where(wrong, (truth + 1) % 3, truth), groups, (0, 1, 2))
    mixed = Held(truth, truth, groups, (0, 1, 2))
    got = room._leak(apart, mixed)
    f1 = f1_score(truth, apart.answer, average="macro")
    assert got.value == pytest.approx(1 - f1)
    names = sorted(set(groups))
    drawn = []
    for _ in range(2000):
        rows = [i for g in rng.choice(names, len(names)) for i in np.flatnonzero(np.array(groups) == g)]
        drawn.append(1 - f1_score(truth[rows], apart.answer[rows], average="macro"))
    assert (got.low, got.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    few = Held(truth, apart.answer, groups, (0, 2))
    assert room._leak(few, few) == Interval(0.0, 0.0, 0.0)
    assert room._macro(few, np.ones((1, 90)))[0] == pytest.approx(
        f1_score(truth, apart.answer, labels=[0, 2], average="macro")
    )
