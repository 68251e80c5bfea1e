"""How far a run is, told from its folder alone, while it runs or after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from detect.errors import StoreError
from detect.score.journal import Journal
from detect.score.store import FINISHED, PLAN, Store

_RECENT = 600.0  # seconds that the rate is told of


@dataclass(frozen=True)
class Status:
    """A run.

    Attributes:
        state: running: a process leads it. stopped: none does, and it is not finished.
        fields: planned. done: of them, in parts that are on disk, by status.
        killed: fields that ended a worker, and how.
        rate: fields a second of late; None where nothing was done. left: seconds until the end at that rate.
    """

    state: Literal["running", "stopped", "finished"]
    fields: int
    done: dict[str, int]
    cells: int
    white: int
    killed: dict[str, str]
    rate: float | None
    left: float | None

    @property
    def scored(self) -> int:
        """Fields in parts that are on disk."""
        return sum(self.done.values())


def status(out: Path) -> Status:
    """Look at a run folder; StoreError where it is none."""
    store = Store(out)
    if not out.is_dir():
        raise StoreError("no such folder", where=str(out), remedy="name the run folder")
    record = store.run()
    journal = Journal(out)
    lines = list(journal.lines())
    parts = {line["part"]: line for line in lines if line["event"] == "part"}
    done: Counter[str] = Counter()
    for line in parts.values():
        done.update(line["fields"])
    planned = pq.read_metadata(out / PLAN).num_rows if (out / PLAN).is_file() else 0
    begun = next((line["time"] for line in reversed(lines) if line["event"] in ("begun", "resumed")), None)
    latest = [line for line in parts.values() if begun is not None and line["time"] >= begun]
    rate = None
    if latest:
        end = max(line["time"] for line in latest)
        recent = [line for line in latest if line["time"] >= end - _RECENT]
        since = max(begun or 0.0, end - _RECENT)
        rate = sum(sum(line["fields"].values()) for line in recent) / max(end - since, 0.1)
    if record.get("state") == FINISHED:
        state: Literal["running", "stopped", "finished"] = "finished"
    else:
        state = "running" if _led(journal) else "stopped"
    if state == "finished":
        done = Counter({name: n for name, n in record["fields"].items() if name != "found" and n})
    remaining = max(0, planned - sum(done.values()))
    return Status(
        state,
        planned,
        dict(done),
        sum(line["cells"] for line in parts.values()),
        sum(line["white"] for line in parts.values()),
        {line["field"]: line["reason"] for line in lines if line["event"] == "killed"},
        rate,
        remaining / rate if rate and state == "running" else None,
    )


def _led(journal: Journal) -> bool:
    """Whether a process leads the run: it then holds the journal."""
    try:
        journal.claim()
    except StoreError:
        return True
    journal.release()
    return False
