"""The page on a port."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from detect.errors import ConfigError


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        ready: called with the address once it is listened on.

    Raises:
        ConfigError: it cannot be listened on.
    """
    # Requests are not logged: paths hold the ids of uploads, and a proxy's log is the place for addresses.
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
    )
    _more_files()
    try:
        bound = _bind(host, port)
    except OSError as error:
        what = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise ConfigError(what, remedy="give another --port, or --port 0 for a free one") from error
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{bound.getsockname()[1]}/")
    uvicorn.Server(config).run(sockets=[bound])


def _more_files() -> None:
    """As many open files as the system allows: each large picture that comes in is one."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(512)
    except OSError:
        found.close()
        raise
    return found
