"""What those who run this every night watch: a file of figures for Prometheus' node exporter."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detect.errors import StoreError
from detect.score.store import write_bytes

_STATES = ("running", "stopped", "finished")
_HELP = {
    "smear_fields_planned": "Fields of the run.",
    "smear_fields_done": "Fields in parts that are on disk, by status.",
    "smear_cells_found": "Cells in parts that are on disk.",
    "smear_white_cells_counted": "Nucleated white cells among them.",
    "smear_fields_given_up": "Fields that ended a worker.",
    "smear_run_state": "1 for the state that the run is in.",
    "smear_run_begun_seconds": "When this call of the run began, seconds since 1970.",
    "smear_run_last_seconds": "When something was last done, seconds since 1970.",
}


class Metrics:
    """The file is written whole each time, so that nobody reads half of one.

    Args:
        path: a name that ends in .prom, in the folder of the exporter's textfile collector.
        run: label that tells this run apart.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path, self._run = path, run.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        self._planned, self._cells, self._white, self._killed = 0, 0, 0, 0
        self._done: Counter[str] = Counter()
        self._state = "running"
        self._begun = time.time()

    def line(self, told: Mapping[str, Any]) -> None:
        """Take in a line of the journal."""
        event = told["event"]
        if event in ("begun", "resumed"):
            self._planned = told["planned"]
            self._done.update(told.get("done", {}))
            self._cells, self._white = told.get("cells", 0), told.get("white", 0)
        elif event == "part":
            self._done.update(told["fields"])
            self._cells += told["cells"]
            self._white += told["white"]
        elif event == "killed":
            self._killed += 1
        elif event in ("stopped", "finished"):
            self._state = event
        with suppress(StoreError):  # the run goes on, whether it is watched or not
            self.write()

    def write(self) -> None:
        """Write the file as things stand."""
        own = f'run="{self._run}"'
        rows = [("smear_fields_planned", own, self._planned)]
        rows += [("smear_fields_done", f'{own},status="{s}"', self._done[s]) for s in ("ok", "failed", "skipped")]
        rows += [("smear_cells_found", own, self._cells), ("smear_white_cells_counted", own, self._white)]
        rows += [("smear_fields_given_up", own, self._killed)]
        rows += [("smear_run_state", f'{own},state="{s}"', int(s == self._state)) for s in _STATES]
        rows += [
            ("smear_run_begun_seconds", own, round(self._begun)),
            ("smear_run_last_seconds", own, round(time.time())),
        ]
        lines, last = [], ""
        for name, labels, value in rows:
            if name != last:
                lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
                last = name
            lines.append(f"{name}{{{labels}}} {value}")
        write_bytes(("\n".join(lines) + "\n").encode(), self._path)
