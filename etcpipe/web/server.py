"""Serves the page on a port."""

import secrets
import socket
from contextlib import closing
from pathlib import Path

from etcpipe import runtime
from etcpipe.errors import OutputError, UsageError

# Requests at a time; more are answered with 503.
CONCURRENT_MAX = 64
TOKEN_BYTES_MIN = 16


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def read_token(path: str | None, host: str) -> str | None:
    """Return the token that a request must show, None if there is none.

    Args:
        path: file with the token; None: make one, unless only this machine can ask.

    Raises:
        UsageError: the file holds no token, or others may read it.
    """
    if path is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    file = Path(path)
    if file.stat().st_mode & 0o007:
        raise UsageError(f"{path}: others may read the token: chmod o= {path}")
    token = file.read_text().strip()
    if len(token) < TOKEN_BYTES_MIN:
        raise UsageError(f"{path}: a token has {TOKEN_BYTES_MIN} characters or more")
    return token


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OutputError: the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # before Python's own words
        raise OutputError(f"{host} port {port}: {reason}") from error


def serve(listening: socket.socket, host: str, token: str | None) -> None:
    """Serve until a signal comes.

    Raises:
        UsageError: a package is not installed.
    """
    try:
        import uvicorn

        from etcpipe.web.app import LOOPBACK, application
    except ImportError as error:
        remedy = runtime.remedy_for("web")
        raise UsageError(f"etcpipe web needs {error.name}: {remedy}") from error
    hosts = [*LOOPBACK, host] if is_loopback(host) else ["*"]  # there the token guards
    config = uvicorn.Config(
        application(hosts, token),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONCURRENT_MAX,
        timeout_keep_alive=5,
    )
    with closing(listening):
        uvicorn.Server(config).run(sockets=[listening])
