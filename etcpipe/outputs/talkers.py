"""Who talks the most, from the table of flows as the sweeper walks over it."""

import threading
from typing import Any

import numpy as np

TOP = 10
# Addresses that are added up in a round; beyond that the smallest are let go.
ADDRESSES_MAX = 65536
KEPT = 8192


class Talkers:
    """Adds up the flows of each initiator; one round over the table at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[bytes, tuple[int, int]] = {}
        self._flows = 0
        self._told: list[dict[str, Any]] = []
        self._told_flows: int | None = None

    def take(self, keys: np.ndarray, states: np.ndarray) -> None:
        """Add a slice of the table: (n,) FLOW_KEY and (n,) FLOW_STATE."""
        from_b = (states["initiator"] != 0)[:, np.newaxis]
        address = np.ascontiguousarray(np.where(from_b, keys["b_addr"], keys["a_addr"]))
        found, place = np.unique(address.view("V16").ravel(), return_inverse=True)
        flows = np.bincount(place, minlength=len(found))
        octets = np.zeros(len(found), np.uint64)
        np.add.at(octets, place, states["bytes"].sum(axis=1, dtype=np.uint64))
        self._flows += len(keys)
        for raw, n, more in zip(found.tolist(), flows.tolist(), octets.tolist(), strict=True):
            before = self._totals.get(raw, (0, 0))
            self._totals[raw] = (before[0] + more, before[1] + n)
        if len(self._totals) > ADDRESSES_MAX:
            self._totals = dict(self._largest(KEPT))

    def end_round(self) -> None:
        """The table was seen whole: that is what is told until the next time."""
        told = [
            {"address": _text(raw), "bytes": octets, "flows": flows}
            for raw, (octets, flows) in self._largest(TOP)
        ]
        with self._lock:
            self._told, self._told_flows = told, self._flows
        self._totals, self._flows = {}, 0

    def asdict(self) -> dict[str, Any]:
        """Return flows in the table and the initiators with the most bytes in them."""
        with self._lock:
            return {"flows": self._told_flows, "talkers": self._told}

    def _largest(self, n: int) -> list[tuple[bytes, tuple[int, int]]]:
        return sorted(self._totals.items(), key=lambda item: item[1], reverse=True)[:n]


def _text(raw: bytes) -> str:
    from ipaddress import IPv6Address

    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)
