"""The columns about a whole flow in NumPy: the definition of what features.py declares."""

import math
from collections.abc import Iterable

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu.features import FEATURE_COLUMNS, FIRST_K, MISSING, SIZE_BIN, SIZE_BINS
from etcpipe.gpu.features_packets_cpu import NS, Packets, first_rank, statistics
from etcpipe.gpu.features_states import FLAGS
from etcpipe.layout import CONSTANTS

_SYN, _ACK = 0x02, 0x10
_HANDSHAKE = {"tcp_rtt", "syn_ack", "ack_dat"}
_SCALE = {"bytes": 1.0, "iat": NS, "winsize": 1.0, "ttl": 1.0, "payload": 1.0}
_FIELD = {"bytes": "ip_len", "ttl": "ttl", "payload": "payload_len"}
# log2 by libm, one number at a time: NumPy's own differs in the last bit from machine to machine.
LOG2 = np.array([0.0, *(math.log2(n) for n in range(1, CONSTANTS["FIRST_N_MAX"] + 1))])


def rows(flows: FlowBatch, depth: int, columns: tuple[str, ...]) -> np.ndarray:
    """Return (flows, columns) float32.

    Raises:
        KeyError: an unknown column.
    """
    packets = Packets(flows, depth)
    values = _totals(packets, flows) | _sides(packets, columns)
    if _HANDSHAKE & set(columns):
        values |= _handshake(packets)
    for names, compute in _OWN:
        if names & set(columns):
            values |= compute(packets)
    table = np.empty((len(flows), len(columns)), np.float32)
    for i, name in enumerate(columns):
        table[:, i] = values[name]
    return table


def _totals(packets: Packets, flows: FlowBatch) -> dict[str, np.ndarray]:
    """Return the columns that look at the whole flow or count packets."""
    taken = packets.taken
    last_rank = len(taken) - 1 - taken[::-1].argmax(axis=0)
    dur_ns = np.maximum(packets.at(last_rank), 0)
    opened_by_b = flows.initiator == 1
    a_port, b_port = flows.key["a_port"], flows.key["b_port"]
    values = {
        "dur": np.where(taken.any(axis=0), dur_ns / NS, MISSING),
        "proto": flows.key["protocol"],
        "s_port": np.where(opened_by_b, b_port, a_port),
        "d_port": np.where(opened_by_b, a_port, b_port),
    }
    length = packets.field("ip_len")
    for side, sent in zip("sd", packets.sent, strict=True):
        load = 8 * (length * sent).sum(axis=0) / np.maximum(dur_ns, 1) * NS
        values[f"{side}_load"] = np.where(dur_ns > 0, load, MISSING)
        values[f"{side}_pkt_cnt"] = sent.sum(axis=0)
    bits = np.unpackbits((packets.field("tcp_flags") * taken)[..., None], axis=-1)
    counts = bits.sum(axis=0, dtype=np.uint16)
    return values | {f"{flag}_cnt": counts[:, i] for i, flag in enumerate(FLAGS)}


def _sides(packets: Packets, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return every statistic of the quantities that the columns name, of both sides."""
    wanted = {name.split("_")[1] for name in columns if name[:2] in ("s_", "d_")}
    names, values, masks = [], [], []
    for quantity in (name for name in _SCALE if name in wanted):
        for side, sent in zip("sd", packets.sent, strict=True):
            value, mask = _quantity(packets, quantity, sent)
            names.append((side, quantity))
            values.append(value)
            masks.append(mask)
    if not names:
        return {}
    scale = np.array([_SCALE[quantity] for _, quantity in names])[:, None]
    found = statistics(np.stack(values, axis=1).astype(np.float64), np.stack(masks, axis=1), scale)
    return {
        f"{side}_{quantity}_{statistic}": by_row[i]
        for statistic, by_row in found.items()
        for i, (side, quantity) in enumerate(names)
    }


def _quantity(packets: Packets, name: str, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if name == "iat":
        return packets.gaps(sent)
    if name == "winsize":
        return packets.field("tcp_window"), sent & packets.is_tcp
    return packets.field(_FIELD[name]), sent


def _handshake(packets: Packets) -> dict[str, np.ndarray]:
    """Return tcp_rtt, syn_ack and ack_dat; missing where a packet of them is."""
    flags = packets.field("tcp_flags")
    syn, ack = flags & _SYN != 0, flags & _ACK != 0
    if not syn.any():  # always so where only packets with payload count
        return dict.fromkeys(_HANDSHAKE, np.full(flags.shape[1], MISSING))
    forward, backward = packets.sent
    ranks = np.arange(len(flags))[:, None]
    syn_at = first_rank(forward & syn & ~ack)
    answer_at = first_rank(backward & syn & ack & (ranks > syn_at))
    ack_at = first_rank(forward & ack & ~syn & (ranks > answer_at))
    return {
        "syn_ack": _between(packets, syn_at, answer_at),
        "tcp_rtt": _between(packets, syn_at, ack_at),
        "ack_dat": _between(packets, answer_at, ack_at),
    }


def _between(packets: Packets, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    last = len(packets.taken) - 1
    took_ns = packets.at(np.minimum(end, last)) - packets.at(np.minimum(start, last))
    return np.where(end <= last, np.maximum(took_ns, 0) / NS, MISSING)


def _gap_statistics(packets: Packets) -> dict[str, np.ndarray]:
    gaps, has_previous = packets.gaps(packets.taken)
    found = statistics(gaps[:, None], has_previous[:, None], np.array([[NS]]))
    return {f"gap_{name}": by_row[0] for name, by_row in found.items()}


def _shares(packets: Packets) -> dict[str, np.ndarray]:
    length = packets.field("ip_len").astype(np.float64)
    found = {}
    for name, per_packet in (("d_pkt_share", np.ones_like(length)), ("d_bytes_share", length)):
        ours, theirs = ((per_packet * sent).sum(axis=0) for sent in packets.sent)
        both = ours + theirs
        found[name] = np.where(both > 0, theirs / np.maximum(both, 1), MISSING)
    return found


def _bursts(packets: Packets) -> dict[str, np.ndarray]:
    direction, length = packets.field("direction") == 1, packets.field("ip_len").astype(np.float64)
    flows = direction.shape[1]
    running = np.zeros((2, flows))  # packets and bytes of the burst under way
    most = np.zeros((2, 2, flows))  # by side, packets and bytes
    bursts, before = np.zeros(flows), np.full(flows, -1)
    for rank, here in enumerate(packets.taken):
        is_new = here & (direction[rank] != before)
        running *= ~is_new
        running += here * np.stack([np.ones(flows), length[rank]])
        for towards, longest in enumerate(most):
            np.maximum(longest, running * (here & (direction[rank] == towards)), out=longest)
        bursts += is_new
        before = np.where(here, direction[rank], before)
    found = {"burst_cnt": bursts}
    for side, counts in zip("sd", most, strict=True):
        found |= {f"{side}_burst_pkts_max": counts[0], f"{side}_burst_bytes_max": counts[1]}
    return found


def _entropies(packets: Packets) -> dict[str, np.ndarray]:
    bins = np.minimum(packets.field("ip_len") // SIZE_BIN, SIZE_BINS - 1)
    found = {}
    for side, sent in zip("sd", packets.sent, strict=True):
        n = sent.sum(axis=0)
        inside = np.zeros(len(n))
        for number in range(SIZE_BINS):
            count = (sent & (bins == number)).sum(axis=0)
            inside += count * LOG2[count]
        entropy = np.maximum(LOG2[n] - inside / np.maximum(n, 1), 0)
        found[f"{side}_size_entropy"] = np.where(n > 0, entropy, MISSING)
    return found


def _each_packet(packets: Packets) -> dict[str, np.ndarray]:
    """Return size and gap of each of the first packets, by their order."""
    place = np.cumsum(packets.taken, axis=0)
    sizes = packets.field("ip_len") * (1.0 - 2.0 * (packets.field("direction") == 1))
    gaps_s = packets.gaps(packets.taken)[0] / NS
    flow = np.arange(place.shape[1])
    found = {}
    for k in range(1, FIRST_K + 1):
        chosen = packets.taken & (place == k)
        rank, is_there = chosen.argmax(axis=0), chosen.any(axis=0)
        found[f"pkt{k}_size"] = np.where(is_there, sizes[rank, flow], MISSING)
        found[f"pkt{k}_gap"] = np.where(is_there, gaps_s[rank, flow], MISSING)
    return found


def _named(*patterns: str) -> set[str]:
    return {c.name for c in FEATURE_COLUMNS for pattern in patterns if pattern in c.name}


# Names of columns, and what computes them.
_OWN: Iterable = (
    (_named("gap_"), _gap_statistics),
    (_named("_share"), _shares),
    (_named("burst_"), _bursts),
    (_named("_entropy"), _entropies),
    ({f"pkt{k}_{what}" for k in range(1, FIRST_K + 1) for what in ("size", "gap")}, _each_packet),
)
