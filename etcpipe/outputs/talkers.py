"""Who talks the most, from the table of flows as the sweeper walks over it."""

import threading
from ipaddress import IPv6Address
from typing import Any

import numpy as np

TOP = 10
# Sums that are held in a round; where more than half of them are of different addresses, the
# smallest are let go.
ADDRESSES_MAX = 131072
KEPT = 8192

# An address of 16 bytes in two words, and what its flows come to.
_SUM = np.dtype([("high", ">u8"), ("low", ">u8"), ("bytes", "<u8"), ("flows", "<i8")])


class Talkers:
    """Adds up the flows of each initiator; one round over the table at a time.

    In arrays: objects of Python, one an address, take seven times their memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin_round()
        self._told: list[dict[str, Any]] = []
        self._told_flows: int | None = None

    def take(self, keys: np.ndarray, states: np.ndarray) -> None:
        """Add a slice of the table: (n,) FLOW_KEY and (n,) FLOW_STATE."""
        from_b = (states["initiator"] != 0)[:, np.newaxis]
        address = np.ascontiguousarray(np.where(from_b, keys["b_addr"], keys["a_addr"]))
        sums = np.ones(len(keys), _SUM)
        sums["high"], sums["low"] = address.view(">u8").T
        sums["bytes"] = states["bytes"].sum(axis=1, dtype=np.uint64)
        self._flows += len(sums)
        self._slices.append(sums)
        self._held += len(sums)
        if self._held > ADDRESSES_MAX:
            self._add_up()
            if self._held > ADDRESSES_MAX // 2:
                self._keep(_largest(self._totals, KEPT))

    def end_round(self) -> None:
        """The table was seen whole: that is what is told until the next time."""
        self._add_up()
        told = [
            {"address": _text(one), "bytes": int(one["bytes"]), "flows": int(one["flows"])}
            for one in _largest(self._totals, TOP)
        ]
        with self._lock:
            self._told, self._told_flows = told, self._flows
        self._begin_round()

    def asdict(self) -> dict[str, Any]:
        """Return flows in the table and the initiators with the most bytes in them."""
        with self._lock:
            return {"flows": self._told_flows, "talkers": self._told}

    def _begin_round(self) -> None:
        self._flows = 0
        self._keep(np.zeros(0, _SUM))

    def _keep(self, totals: np.ndarray) -> None:
        self._totals = totals  # of each address one
        self._slices: list[np.ndarray] = []
        self._held = len(totals)

    def _add_up(self) -> None:
        self._keep(_by_address(np.concatenate([self._totals, *self._slices])))


def _by_address(sums: np.ndarray) -> np.ndarray:
    """Return (addresses,) _SUM of (n,) in any order."""
    if not len(sums):
        return sums
    sums = sums[np.lexsort((sums["low"], sums["high"]))]
    is_other = (sums["high"][1:] != sums["high"][:-1]) | (sums["low"][1:] != sums["low"][:-1])
    begins = np.concatenate([[0], is_other.nonzero()[0] + 1])
    totals = sums[begins]
    for name in ("bytes", "flows"):
        totals[name] = np.add.reduceat(sums[name], begins)
    return totals


def _largest(totals: np.ndarray, n: int) -> np.ndarray:
    return totals[np.lexsort((totals["flows"], totals["bytes"]))[::-1][:n]]


def _text(one: np.void) -> str:
    address = IPv6Address(int(one["high"]) << 64 | int(one["low"]))
    return str(address.ipv4_mapped or address)
