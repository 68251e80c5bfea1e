"""The process that workers are forked from: it loads what all of them need once, beside whoever asks for them."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import forkserver
from typing import Any


def begin() -> None:
    """Let it load, before it is known what the workers will do; elsewhere than on Linux each worker loads by itself.

    Imports nothing of ours, so that it can be called before anything else is.
    """
    if _forks():
        forkserver.set_forkserver_preload(["detect.score.loaded"])
        forkserver.ensure_running()


def context() -> Any:
    """Of multiprocessing, to begin workers in."""
    begin()
    return multiprocessing.get_context("forkserver" if _forks() else "spawn")


def _forks() -> bool:
    return sys.platform == "linux" and "forkserver" in multiprocessing.get_all_start_methods()
