"""Another policy for flows that were judged by one already."""

from collections.abc import Callable

import numpy as np

from etcpipe.layout import VERDICT_CONSTANTS
from etcpipe.policy.rules import Policy, Rule

_SHIFT = np.uint64(VERDICT_CONSTANTS["VERDICT_ACTION_SHIFT"])
_NUMBERS = np.uint64(VERDICT_CONSTANTS["ACTIONS_MAX"] - 1)


def change(
    words: np.ndarray,
    before: Policy | None,
    after: Policy | None,
    put: Callable[[np.ndarray], object],
) -> None:
    """Let verdicts act by another policy: each rule that both have goes on for its flows.

    Verdicts name actions by number, and a number may mean something else afterwards. So flows
    judged by a rule that is gone are left alone, and at no time does a number mean the wrong
    one: it is taken away, the actions are put in place, and it comes back.

    Args:
        words: (slots,) uint64, the kernel's array of verdicts (bpf/verdict.h), changed in place.
        put: hands the kernel Policy.actions().
    """
    before, after = before or Policy(()), after or Policy(())
    numbers = (words >> _SHIFT) & _NUMBERS
    new = renumbered(before, after)[numbers]
    moved = np.flatnonzero(new != numbers)
    bare = words[moved] & ~(_NUMBERS << _SHIFT)
    words[moved] = bare
    put(after.actions())
    words[moved] = bare | new[moved] << _SHIFT


def renumbered(before: Policy, after: Policy) -> np.ndarray:
    """Return (ACTIONS_MAX,) uint64: the number in `after` of each action of `before`, 0 if gone."""
    later = {_key(rule): number for number, rule in reversed([*enumerate(after.rules, 1)])}
    new = np.zeros(VERDICT_CONSTANTS["ACTIONS_MAX"], np.uint64)
    for number, rule in enumerate(before.rules, 1):
        new[number] = later.get(_key(rule), 0)
    return new


def _key(rule: Rule) -> tuple:
    return rule.patterns, rule.min_probability, rule.action.tobytes()
