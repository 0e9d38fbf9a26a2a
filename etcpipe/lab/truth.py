"""Ground truth of a lab capture: which server address and port belongs to which label."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from etcpipe.errors import LabError

COLUMNS = ["capture", "label", "address", "protocol", "port"]
PROTOCOL_NAMES = {6: "tcp", 17: "udp"}
ANY = "*"

Endpoint = tuple[str, int]


@dataclass(frozen=True)
class Truth:
    """A flow with this endpoint belongs to label; None stands for any protocol or port."""

    label: str
    address: str
    protocol: str | None = None
    port: int | None = None

    def matches(self, protocol: str, endpoint: Endpoint) -> bool:
        """Return whether endpoint, its address in canonical form, is the one meant here."""
        address, port = endpoint
        return (
            address == self.address
            and self.protocol in (None, protocol)
            and self.port in (None, port)
        )


def label_of(
    truth: Iterable[Truth], protocol: str | int, first: Endpoint, second: Endpoint
) -> str | None:
    """Return the label of a flow, or None where no server of the lab is part of it.

    Args:
        truth: rows of one capture.
        protocol: "tcp", "udp", or the IP protocol number.
        first, second: (address, port) of the two ends, in either order, addresses as text.

    Source: RFC 5952 for what makes two spellings of an IPv6 address the same.
    """
    name = PROTOCOL_NAMES.get(protocol, "other") if isinstance(protocol, int) else protocol
    ends = [(str(ip_address(address)), port) for address, port in (first, second)]
    for row in truth:
        if any(row.matches(name, end) for end in ends):
            return row.label
    return None


def append_truth(path: Path, capture: str, truth: Iterable[Truth]) -> None:
    """Add a capture's rows to the labels.csv at path; rows of an older such capture go."""
    rows = [row for row in _rows(path) if row["capture"] != capture] if path.exists() else []
    rows += [
        {
            "capture": capture,
            "label": row.label,
            "address": row.address,
            "protocol": row.protocol or ANY,
            "port": row.port or ANY,
        }
        for row in truth
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_truth(path: Path) -> dict[str, list[Truth]]:
    """Return capture file name -> its rows, read from a labels.csv.

    Raises:
        LabError: the file is missing or is not a labels.csv.
    """
    captures: dict[str, list[Truth]] = {}
    for row in _rows(path):
        captures.setdefault(row["capture"], []).append(_parse(row, path))
    return captures


def _rows(path: Path) -> Iterator[dict]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise LabError(f"{path} is not a labels.csv: its columns are not {COLUMNS}")
            yield from reader
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from error


def _parse(row: dict, path: Path) -> Truth:
    try:
        return Truth(
            label=row["label"],
            address=str(ip_address(row["address"])),
            protocol=None if row["protocol"] == ANY else row["protocol"],
            port=None if row["port"] == ANY else int(row["port"]),
        )
    except (ValueError, TypeError) as error:
        raise LabError(f"{path} has a damaged row: {row}") from error
