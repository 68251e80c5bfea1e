"""How a person, or the system, stops a long command: it finishes what it has in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from detect.cli.output import err


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yields what says whether Ctrl-C or SIGTERM came. A second one ends the command at once, as usual."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread only
        yield came.is_set
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def note(kind: int, frame: FrameType | None) -> None:
        came.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        err.print("stopping when the parts in hand are finished; once more to stop at once")

    for kind in before:
        signal.signal(kind, note)
    try:
        yield came.is_set
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
