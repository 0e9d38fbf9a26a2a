"""The table of actions, to which verdicts point (bpf/act.h)."""

import numpy as np

from etcpipe.kernel import bpf
from etcpipe.layout import ACTION, VERDICT_CONSTANTS


def replace(actions_fd: int, verdicts: np.ndarray, actions: np.ndarray) -> None:
    """Put actions in the place of those that are there.

    Args:
        verdicts: (slots,) uint64, shared with the kernel; those that point to another table
            point nowhere from then on.
        actions: (n,) ACTION, at most ACTIONS_MAX; those beyond n do nothing.
    """
    table = np.zeros(VERDICT_CONSTANTS["ACTIONS_MAX"], ACTION)
    table[: len(actions)] = actions
    keys = np.arange(len(table), dtype=np.uint32)
    before = np.zeros_like(table)
    bpf.lookup(actions_fd, keys, before)
    if np.array_equal(before, table):
        return
    if before["flags"].any():
        shift = VERDICT_CONSTANTS["VERDICT_ACTION_SHIFT"]
        action_bits = (VERDICT_CONSTANTS["ACTIONS_MAX"] - 1) << shift
        verdicts[:] &= np.uint64(0xFFFFFFFFFFFFFFFF ^ action_bits)
    for row in range(len(table)):
        bpf.update(actions_fd, keys[row : row + 1], table[row : row + 1])
