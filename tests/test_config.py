"""Settings: every mistake at once, with the key that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import Field as Key
from pydantic import ValidationError, model_validator

from detect import assets
from detect.config import Settings, dump, load, load_yaml, parse
from detect.data.cards import Card
from detect.detectors.base import FAMILIES, DetectorSettings, family
from detect.errors import ConfigError


class Inner(Settings):
    depth: int = 1


class Outer(Settings):
    name: str
    threshold: float = 0.5
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Key(default={})


class Ordered(Settings):
    low: int
    high: int

    @model_validator(mode="after")
    def _is_ordered(self) -> Ordered:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def mistakes(values: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, values, "a.yaml")
    return str(caught.value)


def test_every_mistake_is_listed_at_once() -> None:
    said = mistakes({"threshhold": 0.4, "threshold": "high", "inner": {"dept": 2, "depth": "x"}})
    assert "a.yaml: 5 mistakes" in said
    assert "threshhold: unknown key; did you mean 'threshold'?" in said
    assert "inner.dept: unknown key; did you mean 'depth'?" in said
    assert "name: missing" in said
    assert "got 'high'" in said
    assert "inner.depth" in said


def test_a_key_like_no_other_lists_the_known_ones() -> None:
    said = mistakes({"name": "x", "zzz": 1})
    assert "1 mistake in" in said
    assert "zzz: unknown key; known keys: name, threshold, inner" in said


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"maybe": {"dpeth": 1}}, "maybe.dpeth"),
        ({"many": [{"depth": 1}, {"dpeth": 1}]}, "many.1.dpeth"),
        ({"named": {"a": {"dpeth": 1}}}, "named.a.dpeth"),
    ],
)
def test_the_hint_reaches_into_optional_and_repeated_settings(values: dict[str, object], key: str) -> None:
    said = mistakes({"name": "x", **values})
    assert f"{key}: unknown key; did you mean 'depth'?" in said


def test_a_rule_over_several_keys_does_not_print_the_whole_file() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Ordered, {"low": 7_654_321, "high": 2}, "a.yaml")
    said = str(caught.value)
    assert "low is above high" in said
    assert "- :" not in said  # a mistake without a key is not written with an empty one
    assert "7654321" not in said


def test_settings_are_frozen() -> None:
    made = parse(Outer, {"name": "x"}, "a.yaml")
    with pytest.raises(ValidationError):
        made.threshold = 0.1


def test_dump_and_load_round_trip(tmp_path: Path) -> None:
    made = parse(Outer, {"name": "Zählkammer", "many": [{"depth": 3}], "named": {"a": {"depth": 4}}}, "a.yaml")
    path = tmp_path / "a.yaml"
    path.write_text(dump(made), "utf-8")
    assert load(Outer, path) == made
    assert list(load_yaml(path)) == list(Outer.model_fields)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", r"a\.yaml:3: not valid YAML"),
        (b"a: 1\n\tb: 2\n", r"a\.yaml:2: not valid YAML"),
        (b"- a\n- b\n", "expected 'key: value' lines, got list"),
        (b"", "expected 'key: value' lines, got NoneType"),
        (b"name: \xff\xfe", "cannot be read"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"a: \x00\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_yaml(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path)


def test_keys_that_are_no_words_are_mistakes() -> None:
    with pytest.raises(ConfigError, match="1 mistake"):
        parse(Outer, {1: 2, "name": "x"}, "a.yaml")  # type: ignore[dict-item]


@pytest.mark.parametrize("path", sorted((assets.ROOT / "configs" / "detectors").glob("*.yaml")), ids=lambda p: p.stem)
def test_packaged_detector_settings_are_valid(path: Path) -> None:
    settings = load(DetectorSettings, path)
    assert settings.family in FAMILIES
    assert parse(DetectorSettings, yaml.safe_load(dump(settings)), "again") == settings


@pytest.mark.parametrize("path", sorted((assets.ROOT / "datasets").glob("*.yaml")), ids=lambda p: p.stem)
def test_packaged_cards_are_valid_and_named_as_their_file(path: Path) -> None:
    assert load(Card, path).name == path.stem


def test_an_unknown_family_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"(?s)no detector family 'yolo'.*the families are: .*ultralytics"):
        family("yolo")


def test_assets_are_found_by_name_and_path_and_listed_where_not(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("a: 1")
    assert assets.find(own, "datasets", ".yaml") == own
    packaged = assets.find("bccd", "datasets", ".yaml")
    assert packaged.name == "bccd.yaml"
    assert assets.find("datasets/bccd.yaml", "datasets", ".yaml").samefile(packaged)
    with pytest.raises(ConfigError, match=r"(?s)no file 'bcd'.*bccd, .*txl-pbc"):
        assets.find("bcd", "datasets", ".yaml")
