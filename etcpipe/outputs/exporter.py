"""Prometheus metrics from inside a running attach: a port to scrape, or a file.

    prometheus://127.0.0.1:9617     GET /metrics there
    prometheus:/var/lib/prometheus/node-exporter/etcpipe.prom
                                    for node_exporter's textfile collector: no open port

Threads of their own serve and write; a port that is taken is tried again until it is free.
"""

import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from etcpipe import runtime
from etcpipe.errors import UsageError

log = logging.getLogger(__name__)

PORT = 9617
RETRY_S = 5.0
FILE_EVERY_S = 15.0
CLIENT_S = 10.0  # a client that says nothing for so long is left

Reports = Callable[[], Iterable[dict[str, Any]]]


class Exporter(ABC):
    """Serves or writes metrics while the block runs.

    Args:
        reports: returns what there is to say, see etcpipe/outputs/watch.py.

    Attributes:
        error: why it does not work now, None if it does.
    """

    def __init__(self, name: str, reports: Reports):
        try:
            from etcpipe.outputs import prometheus
        except ImportError as error:
            raise UsageError(
                f"{name} needs prometheus_client: {runtime.remedy_for('metrics')}"
            ) from error
        self.name = name
        self.error: str | None = "not started"
        self._registry = prometheus.registry(reports)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etcpipe-metrics", daemon=True)

    def __enter__(self) -> "Exporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._end()

    def _end(self) -> None:  # noqa: B027 (most have nothing to leave)
        """Leave nothing behind."""

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._round()
            except OSError as error:
                self._failed(error.strerror or str(error))
                self._stopping.wait(RETRY_S)

    def _failed(self, reason: str) -> None:
        if self.error != reason:
            log.warning("%s: %s; trying again until it works", self.name, reason)
        self.error = reason

    def _works(self) -> None:
        if self.error not in (None, "not started"):
            log.warning("%s: works again", self.name)
        self.error = None

    @abstractmethod
    def _round(self) -> None:
        """Serve or write once, or for a while; an OSError is said and tried again."""


class Port(Exporter):
    """Serves GET /metrics at a TCP address."""

    def __init__(self, name: str, address: tuple[str, int], reports: Reports):
        super().__init__(name, reports)
        self.address = address

    def _round(self) -> None:
        from prometheus_client import MetricsHandler

        handler: Any = MetricsHandler.factory(self._registry)
        handler.timeout = CLIENT_S
        with _Server(self.address, handler) as server:
            self.address = (self.address[0], server.server_address[1])
            self._works()
            while not self._stopping.is_set():
                server.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that hangs does not keep etcpipe from ending
    timeout = 0.2  # seconds until handle_request() looks whether it shall end

    def __init__(self, address: tuple[str, int], handler: Any):
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left in the middle is not worth a word."""


class TextFile(Exporter):
    """Writes the metrics into a file, whole or not at all; at the end it is removed."""

    def __init__(self, name: str, path: Path, reports: Reports):
        super().__init__(name, reports)
        self._path = path

    def _round(self) -> None:
        from prometheus_client import generate_latest

        draft = self._path.with_name(f".{self._path.name}.new")
        draft.write_bytes(generate_latest(self._registry))
        draft.replace(self._path)
        self._works()
        self._stopping.wait(FILE_EVERY_S)

    def _end(self) -> None:
        self._path.unlink(missing_ok=True)
