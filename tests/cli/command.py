"""The real command `smear`: in a process of its own, or, where only its answers matter, in this one."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from detect.cli import main

SCRIPT = Path(sys.executable).parent / "smear"


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str


def smear(*args: object, cwd: Path | None = None) -> Answer:
    """Run the installed script."""
    done = subprocess.run([SCRIPT, *map(str, args)], capture_output=True, text=True, check=False, cwd=cwd)
    return Answer(done.returncode, done.stdout, done.stderr)


def inside(*args: object) -> Answer:
    """Run the script's entry point in this process, which saves a start of Python."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["smear", *map(str, args)]),
        mock.patch("detect.score.store.without_pandas"),  # not this process: tests convert tables to pandas
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main.run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Answer(code, out.getvalue(), err.getvalue())
