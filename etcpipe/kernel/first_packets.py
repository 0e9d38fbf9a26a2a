"""What becomes of the first packets of flows: the consumer is handed them, or they are lost."""

from collections.abc import Mapping

# By TapSettings.capture: the counter of what arrived, and what was done to it.
TAKEN = {
    "afxdp": ("PACKETS_REDIRECTED", "mirrored"),
    "ringbuf": ("PACKETS_CLONED", "copied"),
    "features": ("PACKETS_GATHERED", "gathered"),
}

# Reasons of loss by stage, in the order of the way. The socket's other statistics are not among
# them: an empty fill ring, for one, is a reason inside rx_dropped.
LOST = {
    "clone": ("PACKETS_CLONE_FAILED", "PACKETS_PUSH_FAILED"),
    "mirror": ("MIRROR_DROPPED", "PACKETS_POP_FAILED", "PACKETS_NO_CONSUMER"),
    "gather": ("PACKETS_NOT_GATHERED", "FLOWS_NOT_GATHERED"),
    "ring": ("PACKETS_RINGBUF_FULL", "RING_RX_DROPPED", "RING_RX_RING_FULL"),
}
STAGE_OF = {counter: stage for stage, counters in LOST.items() for counter in counters}


def taken(counters: Mapping[str, int], capture: str) -> int:
    """Return how many the consumer was handed, or the kernel gathered for it."""
    return counters.get(TAKEN[capture][0], 0)


def participle(*captures: str) -> str:
    """Return what was done to those that were taken in all of these ways: "mirrored"."""
    words = {TAKEN[capture][1] for capture in captures}
    return words.pop() if len(words) == 1 else "taken"


def lost(counters: Mapping[str, int]) -> dict[str, int]:
    """Return how many never reached the consumer, by reason, zeros left out."""
    return {name: counters[name] for name in STAGE_OF if counters.get(name)}
