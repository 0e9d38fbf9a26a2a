"""Which inputs a model uses: its macro-F1 when a part of the input is made uninformative.

A part is exchanged among the flows at random, so that each flow has realistic values of another
flow. Parts that a mask has zeroed show no drop.

Source: Breiman, Random Forests, 2001, section 10 (permutation importance); parts as in SoK:
Decoding the Enigma, IEEE S&P 2025, section 5.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from etcpipe.evaluation import evaluate
from etcpipe.evaluation.evaluate import rounded
from etcpipe.model import Model

# Columns of statistics by their source; the first match counts.
_QUANTITIES = {
    "times": r"dur|load|iat|rtt|syn_ack|ack_dat|gap|time",
    "sizes": r"bytes|size|len|payload",
    "flags": r"_cnt$(?<!pkt_cnt)|flag",
    "counts": r"pkt_cnt|count|burst|packets",
    "window": r"winsize|window",
    "ttl": r"ttl",
    "ports": r"port",
    "protocol": r"proto",
    "direction": r"direction",
}
_IPV6_HEADER, _UDP_HEADER, _TCP = 40, 8, 6


def measure(
    model: Model,
    rows: np.ndarray,
    label: np.ndarray,
    capture: np.ndarray,
    seed: int = 1,
) -> dict[str, dict[str, Any]]:
    """Return macro-F1 without each part of the input, and its drop.

    Args:
        rows: (flows, ...) the model's input.
        label: (flows,) int, index into the model's classes.
        capture: (flows,) int, resampled together for the intervals.
    """
    rng = np.random.default_rng(seed)
    classes = len(model.classes)
    said = model.infer(rows).argmax(axis=1)
    found = {}
    for name, part in parts_of(model.view.name, model.columns, rows).items():
        without = np.where(part, rows[rng.permutation(len(rows))], rows)
        other = model.infer(without).argmax(axis=1)
        drop, low, high = evaluate.difference(label, said, other, capture, classes, seed)
        score = evaluate.macro_f1(evaluate.confusion_matrix(label, other, classes))
        found[name] = {
            "macro_f1": rounded(score),
            "drop": rounded(drop),
            "drop_interval": [rounded(low), rounded(high)],
        }
    return found


def parts_of(view: str, columns: tuple[str, ...], rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the parts of a view's rows by name, as masks that broadcast to rows.

    Args:
        columns: names of the last axis; empty for bytes.
    """
    if rows.ndim == 2:
        return _by_quantity(columns)
    parts = {f"packet {i + 1}": _packet(rows, i) for i in range(min(rows.shape[1], 10))}
    if columns:
        return _by_quantity(columns) | parts
    if rows.dtype == np.uint8 and rows.shape[2] > _IPV6_HEADER + 20:
        header = _header_bytes(rows)
        return {"headers": header, "payload": ~header} | parts
    return parts


def _by_quantity(columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    quantity = [
        next((name for name, form in _QUANTITIES.items() if re.search(form, column)), "other")
        for column in columns
    ]
    return {name: np.array([one == name for one in quantity]) for name in dict.fromkeys(quantity)}


def _packet(rows: np.ndarray, i: int) -> np.ndarray:
    return (np.arange(rows.shape[1]) == i).reshape(-1, *[1] * (rows.ndim - 2))


def _header_bytes(rows: np.ndarray) -> np.ndarray:
    """Return (flows, packets, L) bool, bytes before the payload."""
    first = rows[..., 0]
    is_ipv6 = first >> 4 == 6
    ip = np.where(is_ipv6, _IPV6_HEADER, (first & 15).astype(np.int64) * 4)
    is_tcp = np.where(is_ipv6, rows[..., 6], rows[..., 9]) == _TCP
    offset = np.minimum(ip + 12, rows.shape[2] - 1)
    tcp = (np.take_along_axis(rows, offset[..., None], axis=2)[..., 0] >> 4).astype(np.int64) * 4
    header = ip + np.where(is_tcp, tcp, _UDP_HEADER)
    return np.arange(rows.shape[2]) < header[..., None]
