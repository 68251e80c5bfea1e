"""Who works on a folder, and who only reads it."""

from __future__ import annotations

from pathlib import Path
from threading import Timer

import pytest

from detect.data import locks
from detect.errors import LedError


def test_one_makes_a_row_and_the_others_pass_it_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "READING_S", 0.0)
    row = tmp_path / "row"
    with locks.alone(row):
        with locks.seen(row) as here:
            assert not here
        with pytest.raises(LedError, match="another process makes it"), locks.alone(row):
            pytest.fail("two make one row")
    with locks.seen(row) as one, locks.seen(row) as other:
        assert one
        assert other
    with locks.alone(row):
        pass


def test_a_row_that_is_only_read_is_waited_for(tmp_path: Path) -> None:
    row = tmp_path / "row"
    reading = locks.seen(row)
    reading.__enter__()
    Timer(0.5, reading.__exit__, (None, None, None)).start()
    with locks.alone(row), locks.seen(row) as here:
        assert not here
