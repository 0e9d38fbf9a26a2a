"""How many first packets reached the consumer: another counter for each way of capture."""

from collections.abc import Mapping

# By TapSettings.capture: the counter, and what was done to what it counts.
TAKEN = {
    "afxdp": ("PACKETS_REDIRECTED", "mirrored"),
    "ringbuf": ("PACKETS_CLONED", "copied"),
    "features": ("PACKETS_GATHERED", "gathered"),
}


def count(counters: Mapping[str, int], capture: str) -> int:
    """Return how many first packets the consumer was handed, or the kernel gathered for it."""
    return counters.get(TAKEN[capture][0], 0)


def word(*captures: str) -> str:
    """Return the participle for what was done to them in all of these ways."""
    words = {TAKEN[capture][1] for capture in captures}
    return words.pop() if len(words) == 1 else "taken"
