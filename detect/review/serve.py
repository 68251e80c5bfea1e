"""FiftyOne's App on one review, on loopback unless told otherwise."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from detect.errors import ConfigError
from detect.review.database import ReviewError, fiftyone, reached
from detect.review.views import WORKSPACE

_START = 120.0  # seconds until the server must answer


@contextmanager
def serve(name: str, address: str = "127.0.0.1", port: int = 5151) -> Iterator[tuple[str, Callable[[], object]]]:
    """The address of the App, which answers by now, and a function that waits until it ends; stopped on leaving.

    FiftyOne's server runs without the Python session of `launch_app`: that one joins when it pleases (seconds after the
    server answers, on a busy machine) and then sets every open page back to the whole dataset, in the middle of an edit
    or of opening a view, which fails with "SavedView is not JSON serializable".
    """
    host = "127.0.0.1" if address == "0.0.0.0" else address
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if probe.connect_ex((host, port)) == 0:
            raise ConfigError(f"port {port} is taken", remedy="stop what listens there, or give another with --port")
    fo = fiftyone()
    from fiftyone.core.service import ServerService

    with reached():
        workspaces = fo.load_dataset(name).list_workspaces()
        server = ServerService(port, address=address, do_not_track=True)
    try:
        _wait_for(host, port)
        page = f"http://{host}:{port}/datasets/{quote(name)}"
        yield page + (f"?workspace={WORKSPACE}" if WORKSPACE in workspaces else ""), server.wait
    finally:
        server.stop()


def _wait_for(host: str, port: int) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + _START
    while True:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/fiftyone")
            if connection.getresponse().status == http.client.OK:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise ReviewError(f"FiftyOne's App does not answer on port {port}", remedy="see 'smear doctor'")
        time.sleep(0.2)
