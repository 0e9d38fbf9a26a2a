"""Where a running attach may send its verdicts, as the user names it.

    flows.jsonl, flows.csv, flows-%Y%m%d%H.parquet   files, see files.py
    prometheus://127.0.0.1:9617, prometheus:FILE     metrics, see exporter.py
    syslog:, syslog://HOST                           verdict lines, see syslog.py
    ipfix://HOST, ipfix+tcp://HOST                   flows that ended, see ipfix.py
    kafka://BROKER/TOPIC                             verdict lines, see kafka.py

Files are opened before anything is attached, so that one that cannot be is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from etcpipe.errors import OutputError, UsageError
from etcpipe.outputs import Columns, exporter, format_of
from etcpipe.outputs.files import Lines, ParquetFiles
from etcpipe.outputs.labels import Ended
from etcpipe.outputs.queued import Queued, Transport

Reports = Callable[[], Iterable[dict[str, Any]]]


class Targets:
    """All targets of an attach; a context manager around the tap's.

    Their threads begin before the tap's network namespace is entered, so that ports and
    connections are in the one that the user is in.

    Args:
        targets: as the user named them.

    Attributes:
        reports: returns what metrics tell, see watch.py; none as long as there is no tap.

    Raises:
        UsageError: a target is wrong, or the package that it needs is not installed.
        OutputError: a file cannot be opened.
    """

    def __init__(self, targets: Sequence[str]):
        self.reports: Reports = list
        self._all = [_make(target, lambda: self.reports()) for target in targets]
        queued = self._queued()
        self._flow_takers = [one for one in queued if _scheme(one.name) in FLOW_SCHEMES]
        self._takers = [one for one in queued if one not in self._flow_takers]
        self._stack = ExitStack()

    def __enter__(self) -> "Targets":
        with ExitStack() as stack:
            for made in self._all:
                stack.enter_context(made)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, queued: Queued) -> Queued:
        """Take care of an output that is written otherwise, and return it."""
        self._all.append(self._stack.enter_context(queued))
        return queued

    def write(self, columns: Columns) -> None:
        """Hand verdicts to all outputs. Returns at once."""
        for queued in self._takers:
            queued.write(columns)

    @property
    def takes_verdicts(self) -> bool:
        """Is there an output of verdicts?"""
        return bool(self._takers)

    @property
    def takes_flows(self) -> bool:
        """Is there an output of flows that ended?"""
        return bool(self._flow_takers)

    def write_flows(self, ended: Ended) -> None:
        """Hand flows that ended to those outputs. Returns at once."""
        for queued in self._flow_takers:
            queued.write(ended)

    def be_patient(self) -> None:
        """From now on, at the end, wait for room in the queues."""
        for queued in self._queued():
            queued.patient = True

    def reopen(self) -> None:
        """Open files and connections anew."""
        for queued in self._queued():
            queued.reopen()

    def states(self) -> list[dict[str, Any]]:
        """Return what each output has done, see Queued.state()."""
        return [queued.state() for queued in self._queued()]

    def _queued(self) -> list[Queued]:
        return [made for made in self._all if isinstance(made, Queued)]


def file_output(path: str, make: Any = None) -> Queued:
    """Return a file as an output; it is opened at once.

    Args:
        make: a format of etcpipe/outputs; None: the one that the extension names.

    Raises:
        UsageError: the extension names no format, or what it needs is not installed.
        OutputError: the file cannot be opened.
    """
    is_parquet = make is None and Path(path).suffix.lower() == ".parquet"
    transport = ParquetFiles(path) if is_parquet else Lines(path, make or format_of(path))
    try:
        transport.open()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return Queued(path, transport)


def _make(target: str, reports: Reports) -> Queued | exporter.Exporter:
    scheme = _scheme(target)
    if scheme == "prometheus":
        return _exporter(target, urlsplit(target), reports)
    if scheme in _TRANSPORTS:
        return Queued(target, _TRANSPORTS[scheme](target, urlsplit(target)))
    if "://" in target:
        known = ", ".join(("prometheus", *_TRANSPORTS))
        raise UsageError(f"{target}: not one of {known}; of a file the extension names the format")
    return file_output(target)


def _scheme(target: str) -> str:
    return target.partition(":")[0].lower()


def _exporter(target: str, url: SplitResult, reports: Reports) -> exporter.Exporter:
    if url.path.strip("/"):
        return exporter.TextFile(target, Path(url.path), reports)
    return exporter.Port(target, address_of(target, url, "127.0.0.1", exporter.PORT), reports)


def address_of(target: str, url: SplitResult, host: str, port: int) -> tuple[str, int]:
    """Return host and port of a URL, or what they are if it names none.

    Raises:
        UsageError: the port is no port.
    """
    try:
        return url.hostname or host, port if url.port is None else url.port
    except ValueError as error:
        raise UsageError(f"{target}: the port is a number from 0 to 65535") from error


def _syslog(target: str, url: SplitResult) -> Transport:
    from etcpipe.outputs import syslog

    if not url.netloc:
        return syslog.Syslog(url.path or syslog.LOCAL)
    return syslog.Syslog(address_of(target, url, "127.0.0.1", syslog.PORT))


def _ipfix(target: str, url: SplitResult) -> Transport:
    from etcpipe.outputs import ipfix

    address = address_of(target, url, "127.0.0.1", ipfix.PORT)
    return ipfix.Ipfix(address, is_tcp=url.scheme == "ipfix+tcp")


def _kafka(target: str, url: SplitResult) -> Transport:
    from etcpipe.outputs.kafka import Kafka

    topic = url.path.strip("/")
    if not (url.netloc and topic):
        raise UsageError(f"{target}: name broker and topic: kafka://BROKER/TOPIC")
    return Kafka(url.netloc, topic, dict(parse_qsl(url.query)))


FLOW_SCHEMES = ("ipfix", "ipfix+tcp")
_TRANSPORTS: dict[str, Callable[[str, SplitResult], Transport]] = {
    "syslog": _syslog,
    "ipfix": _ipfix,
    "ipfix+tcp": _ipfix,
    "kafka": _kafka,
}
