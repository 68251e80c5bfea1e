"""Who works on a row, and who only reads it."""

from __future__ import annotations

from pathlib import Path
from threading import Timer

import pytest

from detect.errors import LedError
from detect.tables import keys


def test_one_makes_a_row_and_the_others_pass_it_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "READING_S", 0.0)
    row = tmp_path / "row"
    with keys.alone(row):
        with keys.seen(row) as here:
            assert not here
        with pytest.raises(LedError, match="another process makes it"), keys.alone(row):
            pytest.fail("two make one row")
    with keys.seen(row) as one, keys.seen(row) as other:
        assert one
        assert other
    with keys.alone(row):
        pass


def test_a_row_that_is_only_read_is_waited_for(tmp_path: Path) -> None:
    row = tmp_path / "row"
    reading = keys.seen(row)
    reading.__enter__()
    Timer(0.5, reading.__exit__, (None, None, None)).start()
    with keys.alone(row), keys.seen(row) as here:
        assert not here
