"""FiftyOne's App on one review, on loopback unless told otherwise."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detect.errors import ConfigError
from detect.review.database import fiftyone, reached
from detect.review.views import WORKSPACE


@contextmanager
def serve(name: str, address: str = "127.0.0.1", port: int = 5151) -> Iterator[tuple[str, Any]]:
    """The address of the App, and its session, which `wait`s; stopped on leaving."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if probe.connect_ex(("127.0.0.1" if address == "0.0.0.0" else address, port)) == 0:
            raise ConfigError(f"port {port} is taken", remedy="stop what listens there, or give another with --port")
    fo = fiftyone()
    with reached():
        dataset = fo.load_dataset(name)
        spaces = dataset.load_workspace(WORKSPACE) if WORKSPACE in dataset.list_workspaces() else None
        session = fo.launch_app(dataset, spaces=spaces, remote=True, address=address, port=port, auto=False)
    try:
        shown = "127.0.0.1" if address == "0.0.0.0" else address
        yield f"http://{shown}:{port}/datasets/{name}", session
    finally:
        session.close()
