"""What can be done to packets. Each takes them and a generator, and returns new ones.

Kept by all: order and direction of what the programs sent, gaps of 0 or more, payloads of at
most PAYLOAD_MAX unless they were larger, the handshake.

Sources: Dyer et al., S&P 2012 (pads); Gong and Wang, USENIX Security 2020 (FRONT); De la
Cadena et al., CCS 2020 (splitting over paths).
"""

import numpy as np

from etcpipe.shaping.packets import PAYLOAD_MAX, Packets

_MS = 1_000_000
_RETRANSMISSION_NS = 200 * _MS  # Linux: the smallest timeout of TCP
_MERGED_WITHIN_NS = _MS

Rng = np.random.Generator


def pad_to_multiple(packets: Packets, rng: Rng, multiple: int) -> Packets:
    """Fill payloads up to the next multiple."""
    return _padded(packets, -(-packets.payload_len // multiple) * multiple, rng)


def pad_to_most(packets: Packets, rng: Rng) -> Packets:
    """Fill all payloads up to a whole segment."""
    return _padded(packets, np.full(len(packets), PAYLOAD_MAX), rng)


def pad_to_power(packets: Packets, rng: Rng) -> Packets:
    """Fill payloads up to the next power of two."""
    powers = 2 ** np.ceil(np.log2(np.maximum(packets.payload_len, 1))).astype(np.int64)
    return _padded(packets, powers, rng)


def pad_at_random(packets: Packets, rng: Rng, most: int) -> Packets:
    """Add 0 to `most` bytes to each payload."""
    return _padded(packets, packets.payload_len + rng.integers(0, most + 1, len(packets)), rng)


def split(packets: Packets, rng: Rng, most: int) -> Packets:
    """Send payloads above `most` bytes as several, at once."""
    payload = packets.payload_len
    parts = np.maximum(-(-payload // most), 1)
    taken = packets.take(np.repeat(np.arange(len(packets)), parts))
    first = np.repeat(np.cumsum(parts) - parts, parts)
    part = np.arange(len(taken)) - first
    length = np.minimum(taken.payload_len - part * most, most)
    return taken.without_content(part > 0, rng).with_payload(length, rng)


def merge(packets: Packets, rng: Rng) -> Packets:
    """Send two payloads as one where the second follows at once and there is room."""
    payload, direction = packets.payload_len, packets.fields["direction"]
    is_free = np.zeros(len(packets), bool)
    is_free[1:] = (
        (packets.flow[1:] == packets.flow[:-1])
        & (direction[1:] == direction[:-1])
        & (packets.gaps_ns()[1:] < _MERGED_WITHIN_NS)
        & (payload[1:] > 0)
        & (payload[:-1] > 0)
        & (payload[1:] + payload[:-1] <= PAYLOAD_MAX)
    )
    for i in np.flatnonzero(is_free).tolist():  # one that was merged takes no other
        is_free[i] = not is_free[i - 1]
    length = payload + np.append(np.where(is_free, payload, 0)[1:], 0)
    return packets.with_payload(length, rng).take(np.flatnonzero(~is_free))


def delay(packets: Packets, rng: Rng, mean_ns: float) -> Packets:
    """Make each gap longer by an exponentially distributed time."""
    return packets.with_gaps(packets.gaps_ns() + rng.exponential(mean_ns, len(packets)))


def delay_by(packets: Packets, rng: Rng, more_ns: float) -> Packets:
    """Make each gap longer by the same time."""
    return packets.with_gaps(packets.gaps_ns() + more_ns)


def jitter(packets: Packets, rng: Rng, percent: float) -> Packets:
    """Make each gap longer or shorter by up to a part of itself."""
    factor = 1 + rng.uniform(-percent, percent, len(packets)) / 100
    return packets.with_gaps(packets.gaps_ns() * np.maximum(factor, 0))


def pace(packets: Packets, rng: Rng, gap_ns: float) -> Packets:
    """Make all gaps the same."""
    return packets.with_gaps(np.full(len(packets), gap_ns))


def limit_rate(packets: Packets, rng: Rng, bits_per_s: float) -> Packets:
    """Send through a queue in front of a slow link (the network's doing, no attacker's)."""
    takes = (packets.fields["ip_len"] * 8e9 / bits_per_s).astype(np.int64)
    sent = np.cumsum(takes)
    # a packet leaves when it came or the one before left, whichever is later, plus its own time
    ahead = packets.time_ns - (sent - takes)
    span = int(np.ptp(ahead)) + 1 if len(ahead) else 1
    waiting = np.maximum.accumulate(ahead - ahead.min(initial=0) + packets.flow * span)
    leaves = waiting - packets.flow * span + ahead.min(initial=0) + sent
    first = leaves[packets.opens][np.cumsum(packets.opens) - 1]
    return packets.at(leaves - first)


def add_dummies(packets: Packets, rng: Rng, share: float, side: str = "both") -> Packets:
    """After some packets, send one that carries nothing, as large as some other packet."""
    chosen = (packets.payload_len > 0) & (rng.random(len(packets)) < share)
    if side != "both":
        chosen &= packets.fields["direction"] == (side == "server")
    sources = np.flatnonzero(chosen)
    until = np.append(packets.gaps_ns()[1:], 0)[sources]
    is_last = np.append(packets.opens[1:], True)[sources]
    after = np.where(is_last, rng.exponential(_MS, len(sources)), until * rng.random(len(sources)))
    return _with_dummies(packets, sources, packets.time_ns[sources] + after, rng)


def prepend(packets: Packets, rng: Rng, count: int) -> Packets:
    """Send dummies ahead of the first payload, one a millisecond; all else comes later."""
    first = _first_payloads(packets)
    sources = np.repeat(first, count)
    when = np.tile(np.arange(count) * _MS, len(first)) + packets.time_ns[sources]
    starts = np.full(packets.flow.max(initial=0) + 1, len(packets))
    starts[packets.flow[first]] = first
    is_after = np.arange(len(packets)) >= starts[packets.flow]
    later = packets.at(packets.time_ns + is_after * count * _MS)
    return _with_dummies(later, sources, when, rng)


def front(packets: Packets, rng: Rng, most: int) -> Packets:
    """Add up to `most` dummies a flow, most of them early (an approximation of FRONT)."""
    first = _first_payloads(packets)
    sources = np.repeat(first, rng.integers(1, most + 1, len(first)))
    spread = rng.uniform(0.01e9, 1e9, len(first))
    flow_of = np.searchsorted(first, sources)
    when = packets.time_ns[sources] + rng.rayleigh(spread[flow_of])
    return _with_dummies(packets, sources, when, rng)


def retransmit(packets: Packets, rng: Rng, share: float) -> Packets:
    """Send some packets with payload once more, 200 ms later (the network's doing)."""
    again = np.flatnonzero((packets.payload_len > 0) & (rng.random(len(packets)) < share))
    both = packets.take(np.concatenate([np.arange(len(packets)), again]))
    time_ns = both.time_ns.copy()
    time_ns[len(packets) :] += _RETRANSMISSION_NS
    return both.at(time_ns)


def lose(packets: Packets, rng: Rng, share: float) -> Packets:
    """Show the tap all but some packets (the network's doing)."""
    return packets.take(np.flatnonzero(rng.random(len(packets)) >= share))


def reorder(packets: Packets, rng: Rng, share: float) -> Packets:
    """Let some packets arrive after the one behind them (the network's doing)."""
    until = np.append(packets.gaps_ns()[1:], 0)
    is_last = np.append(packets.opens[1:], True)
    chosen = (rng.random(len(packets)) < share) & ~is_last
    return packets.at(packets.time_ns + np.where(chosen, until + 1, 0))


def truncate(packets: Packets, rng: Rng, count: int) -> Packets:
    """Show the tap no more than a flow's first packets."""
    start = np.flatnonzero(packets.opens)[np.cumsum(packets.opens) - 1]
    return packets.take(np.flatnonzero(np.arange(len(packets)) - start < count))


def sliver(packets: Packets, rng: Rng, paths: int) -> Packets:
    """Show the tap one of several paths, over which packets go at random (TrafficSliver-like)."""
    is_here = (rng.integers(0, paths, len(packets)) == 0) | packets.opens
    return packets.take(np.flatnonzero(is_here))


def _padded(packets: Packets, payload_len: np.ndarray, rng: Rng) -> Packets:
    """Payloads grow, up to PAYLOAD_MAX; packets without any stay so."""
    before = packets.payload_len
    after = np.maximum(before, np.minimum(payload_len, PAYLOAD_MAX))
    return packets.with_payload(np.where(before > 0, after, 0), rng)


def _first_payloads(packets: Packets) -> np.ndarray:
    """Return the index of each flow's first packet with payload, flows in order."""
    having = np.flatnonzero(packets.payload_len > 0)
    return having[np.diff(packets.flow[having], prepend=-1) != 0]


def _with_dummies(packets: Packets, sources: np.ndarray, time_ns: np.ndarray, rng: Rng) -> Packets:
    """Add packets with the headers of some others, and lengths of any."""
    having = packets.payload_len[packets.payload_len > 0]
    if not len(sources) or not len(having):
        return packets
    count = len(packets)
    both = packets.take(np.concatenate([np.arange(count), sources]))
    is_dummy = np.arange(len(both)) >= count
    length = both.payload_len
    length[is_dummy] = np.minimum(rng.choice(having, len(sources)), PAYLOAD_MAX)
    when = np.concatenate([packets.time_ns, time_ns.astype(np.int64)])
    return both.without_content(is_dummy, rng).with_payload(length, rng).at(when)
