"""Each set is left out once: the whole of it is held back, and no copy of it is learnt from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from detect.bundles.card import WEIGHTS
from detect.data.splits import EXCLUDED, read_split
from tests.cli.command import inside
from tests.detectors.tiny import write


def by_bytes(paths: Sequence[Path], **_: object) -> list[int]:
    """Groups of equal files, as `copies.groups` numbers them."""
    first: dict[bytes, int] = {}
    return [first.setdefault(path.read_bytes(), i) for i, path in enumerate(paths)]


@pytest.mark.long
def test_each_set_is_left_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write(tmp_path / "sets", "one", seed=31), write(tmp_path / "sets", "two", seed=77)
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):  # of three copies two stand in the second set
        source = one.home / kind / "all" / f"f00{suffix}"
        for name in ("copy-a", "copy-b"):
            shutil.copyfile(source, two.home / kind / "all" / f"{name}{suffix}")
    monkeypatch.setenv("SMEAR_DATA", str(tmp_path / "sets"))
    monkeypatch.setattr("detect.data.copies.groups", by_bytes)  # drawings this small all look alike to key points
    out = tmp_path / "out"
    command = ("evaluate", "leave-one-out", one.config, "--data", one.card, "--data", two.card, "--out", out)
    answer = inside(*command, "--device", "cpu", "--bootstrap", 20)
    assert answer.code == 0, answer.err[-3000:]

    parts = {row.field: row.part for row in read_split(out / "leave-one-out.csv").rows}
    assert parts["one/images/all/f00.png"] == EXCLUDED
    assert parts["two/images/all/copy-a.png"] == parts["two/images/all/copy-b.png"] == "two"
    told = json.loads((out / "leave-one-out.json").read_text("utf-8"))["legs"]
    assert [(leg["held"], leg["learnt"]) for leg in told] == [("one", ["two"]), ("two", ["one"])]
    for leg, other in (("one", "two"), ("two", "one")):
        rows = read_split(out / leg / f"split-{leg}.csv").rows
        assert {row.part for row in rows} <= {"test", EXCLUDED}
        learnt = read_split(out / leg / f"split-{other}.csv").counts()
        assert {"train", "dev"} <= set(learnt)
        kept = sum(1 for part in parts.values() if part == leg)
        assert next(t for t in told if t["held"] == leg)["n_fields"] == kept
        record = yaml.safe_load((out / leg / "run" / "run.yaml").read_text("utf-8"))
        assert record["data"] == [other]
        assert record["leaking_groups"] == 0
    assert "| two | one |" in (out / "leave-one-out.md").read_text("utf-8")

    refused = inside(*command)
    assert refused.code == 2
    assert "--resume" in refused.err
    (out / "two" / "evaluation" / "metrics.json").unlink()
    kept = (out / "one" / "run" / WEIGHTS).stat().st_mtime_ns, (out / "two" / "run" / WEIGHTS).stat().st_mtime_ns
    again = inside(*command, "--resume", "--device", "cpu", "--bootstrap", 20)
    assert again.code == 0, again.err[-3000:]
    assert json.loads((out / "leave-one-out.json").read_text("utf-8"))["legs"] == told
    assert kept == (
        (out / "one" / "run" / WEIGHTS).stat().st_mtime_ns,
        (out / "two" / "run" / WEIGHTS).stat().st_mtime_ns,
    )
