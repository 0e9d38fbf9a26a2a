"""The policy: which verdicts do what to their flows, read from a TOML file.

    [[rule]]
    class = ["https_bulk", "torrent*"]      # names or globs, of families too; "unknown" by its name
    min_probability = 0.9                   # of all that it names, together
    action = {priority = "1:20", mark = "0x20/0xff", dscp = "CS1"}

The first rule that a verdict fulfils counts: without min_probability one that names its label, else
one whose classes are probable enough together. docs/policy.md explains the actions. A [tree] may
stand beside the rules: queues for them, see etcpipe/policy/tree.py.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import compress
from os import PathLike, fspath
from typing import Any

import numpy as np

from etcpipe import toml_text
from etcpipe.errors import UsageError
from etcpipe.families import LabelNames, names_of
from etcpipe.layout import ACTION, VERDICT_CONSTANTS
from etcpipe.policy import action as policy_action
from etcpipe.policy import tree as policy_tree
from etcpipe.policy.tree import Tree
from etcpipe.verdict import UNKNOWN

RULES_MAX = VERDICT_CONSTANTS["ACTIONS_MAX"] - 1
RULE_KEYS = ("class", "min_probability", "action")
_RULE_LINE = re.compile(r"^[ \t]*\[\[[ \t]*rule[ \t]*\]\]", re.MULTILINE)


@dataclass(frozen=True)
class Rule:
    """One [[rule]].

    Attributes:
        patterns: names or globs of classes and families.
        min_probability: of all classes that they mean, together; 0: the verdict's label counts.
        action: () ACTION, what is done then.
        place: file and line, for messages.
    """

    patterns: tuple[str, ...]
    min_probability: float
    action: np.ndarray
    place: str


@dataclass(frozen=True)
class Policy:
    """The rules of a file, in their order, and the queues that it wants."""

    rules: tuple[Rule, ...]
    tree: Tree | None = None

    def actions(self) -> np.ndarray:
        """Return (1 + rules,) ACTION: rule i has action i + 1, action 0 does nothing."""
        return np.stack([np.zeros((), ACTION), *(rule.action for rule in self.rules)])

    def describe(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return what each rule comes to: {rule, classes, families, min_probability, action}.

        Families are those all of whose classes the rule means.

        Raises:
            UsageError: a rule names a class that is not there.
        """
        families = names_of(labels).families
        told = []
        for number, hits in enumerate(self.decider(labels).matches, 1):
            rule = self.rules[number - 1]
            # a model may have learned "unknown": one word with what it does not know
            named = list(dict.fromkeys(compress((*labels, UNKNOWN), hits)))
            told.append(
                {
                    "rule": number,
                    "classes": [name for name in named if name not in families],
                    "families": [name for name in named if name in families],
                    "min_probability": rule.min_probability,
                    "action": policy_action.text(rule.action),
                }
            )
        return told

    def check_xdp_wire(self) -> None:
        """Raise UsageError if a rule needs what a wire by XDP does not pass by: TC and queues."""
        if place := self.needs_tc():
            raise UsageError(f"{place}: where XDP forwards the only action is drop: use --mode tc")

    def needs_tc(self) -> str:
        """Return the place of a rule that does more than to drop, empty if none does."""
        drop = VERDICT_CONSTANTS["ACTION_DROP"]
        return next((rule.place for rule in self.rules if rule.action["flags"] != drop), "")

    def decider(self, labels: Sequence[str]) -> "Decider":
        """Return what decides on verdicts of a model with these labels, see Model.labels.

        Raises:
            UsageError: a rule names a class that the model does not have.
        """
        return Decider(self.rules, labels)


class Decider:
    """From verdicts to actions.

    Args:
        rules: in their order.
        labels: of the model's verdicts: names of classes, and of families if it has any.

    Attributes:
        matches: (rules, labels + 1) bool, what each rule means; the last one is "unknown".
        adds_up: whether a rule asks how probable its classes are together.
    """

    def __init__(self, rules: Sequence[Rule], labels: Sequence[str]):
        names = names_of(labels)
        self.matches = np.array([_matches(rule, names) for rule in rules], dtype=bool)
        self._minimum = np.array([[rule.min_probability] for rule in rules], dtype=np.float32)
        self._means = self.matches[:, : len(names.classes)].astype(np.float32)
        self.adds_up = bool(self._minimum.any())

    def __call__(
        self, label: np.ndarray, probability: np.ndarray, shares: np.ndarray | None = None
    ) -> np.ndarray:
        """Return (n,) uint8, the action of each verdict, 0 for none.

        Args:
            label: (n,) integer, index into labels, -1 is "unknown".
            probability: (n,) float32, of the label.
            shares: (n, classes) float32, of all classes, 0 where they are not known: then, and
                without them, of the label alone.
        """
        holds = self.matches[:, label] & (probability >= self._minimum)
        if shares is not None:
            holds |= (self._minimum > 0) & (self._means @ shares.T >= self._minimum)
        return np.where(holds.any(axis=0), holds.argmax(axis=0) + 1, 0).astype(np.uint8)


def verdict_words(
    flow_id: np.ndarray,
    label: np.ndarray,
    action: np.ndarray,
    final: np.ndarray | bool = False,
) -> np.ndarray:
    """Return (n,) uint64, verdicts as the kernel's array holds them (bpf/verdict.h).

    Args:
        flow_id: (n,) uint64.
        label: (n,) integer, -1 is "unknown".
        action: (n,) uint8.
        final: (n,) bool, no other verdict on the flow will follow.
    """
    last = VERDICT_CONSTANTS["VERDICT_CLASS_MAX"]
    classes = np.minimum(label.astype(np.int64) + 1, last).astype(np.uint64)
    actions = action.astype(np.uint64) << np.uint64(VERDICT_CONSTANTS["VERDICT_ACTION_SHIFT"])
    ends = np.uint64(VERDICT_CONSTANTS["VERDICT_FINAL"]) * np.asarray(final, np.uint64)
    return flow_id << np.uint64(VERDICT_CONSTANTS["VERDICT_FLOW_SHIFT"]) | ends | actions | classes


def load(path: str | PathLike[str]) -> Policy:
    """Return the policy of a file.

    Raises:
        UsageError: it cannot be read, or something in it is wrong: one line that says
            where, and what was probably meant.
    """
    try:
        text = toml_text.read(fspath(path))
    except UsageError as error:
        raise UsageError(f"policy {error}") from error.__cause__
    return parse(text, fspath(path))


def parse(text: str, name: str = "policy") -> Policy:
    """Return the policy that a text describes; `name` stands in messages."""
    document = toml_text.parse(text, name)
    toml_text.check_keys(document, ("rule", "tree"), name)
    tree = policy_tree.parse(document["tree"], name) if "tree" in document else None
    rules = _rules(document.get("rule", []), text, name)
    for rule in rules:
        if tree and rule.action["flags"] & VERDICT_CONSTANTS["ACTION_PRIORITY"]:
            policy_tree.check_priority(tree, int(rule.action["priority"]), rule.place)
    return Policy(rules, tree)


def _rules(rules: object, text: str, name: str) -> tuple[Rule, ...]:
    if not isinstance(rules, list) or not rules:
        raise UsageError(f"{name}: no rules: begin each with a line [[rule]]")
    if len(rules) > RULES_MAX:
        raise UsageError(f"{name}: {len(rules)} rules, at most {RULES_MAX} are possible")
    starts = [found.start() for found in _RULE_LINE.finditer(text)]
    if len(starts) != len(rules):  # written in another way than [[rule]]
        return tuple(_rule(rule, name, lambda key: name) for rule in rules)
    ends = [*starts[1:], len(text)]
    return tuple(
        _rule(rule, *_places(text, start, end, name))
        for rule, start, end in zip(rules, starts, ends, strict=True)
    )


def _places(text: str, start: int, end: int, name: str) -> tuple[str, Callable[[str], str]]:
    """Return where a rule is, and a function that says where a key of it is."""

    def line(position: int) -> str:
        return f"{name}:{text.count(chr(10), 0, position) + 1}"

    def place(key: str) -> str:
        found = re.search(rf"\b{re.escape(key)}\b\s*=", text[start:end])
        return line(start + found.start()) if found else line(start)

    return line(start), place


def _rule(rule: object, place: str, place_of: Callable[[str], str]) -> Rule:
    if not isinstance(rule, dict):
        raise UsageError(f"{place}: a rule is a table: begin it with a line [[rule]]")
    for key in rule:
        toml_text.check_keys([key], RULE_KEYS, place_of(key))
    for key in ("class", "action"):
        if key not in rule:
            raise UsageError(f"{place}: the rule has no {key}")
    return Rule(
        _patterns(rule["class"], place_of("class")),
        _probability(rule.get("min_probability", 0), place_of("min_probability")),
        _action(rule["action"], place_of),
        place_of("class"),
    )


def _patterns(value: object, place: str) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns:
        raise UsageError(f'{place}: class must be a name or a list of names, as "https_bulk"')
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise UsageError(f"{place}: {pattern!r} is no name of a class")
    return tuple(patterns)


def _probability(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UsageError(f"{place}: min_probability is {value!r}, must be 0 to 1")
    return float(value)


def _action(value: object, place_of: Callable[[str], str]) -> np.ndarray:
    if not isinstance(value, dict) or not value:
        raise UsageError(
            f'{place_of("action")}: action must say what to do, as {{priority = "1:20"}}'
        )
    for key in value:
        toml_text.check_keys([key], policy_action.FIELDS, place_of(key))
    if "drop" in value and len(value) > 1:
        raise UsageError(f"{place_of('drop')}: drop goes with no other action")
    action = np.zeros((), ACTION)
    for key, wanted in value.items():
        try:
            policy_action.set_field(action, key, wanted)
        except ValueError as error:
            raise UsageError(f"{place_of(key)}: {error}") from error
    return action


def _matches(rule: Rule, names: LabelNames) -> list[bool]:
    """Return whether the rule means each label, and last, "unknown".

    Who names a family means its classes, and who names all of these means the family.
    """
    for pattern in rule.patterns:
        if pattern != UNKNOWN and not any(fnmatchcase(name, pattern) for name in names):
            hint = _suggestion(pattern, (*names, UNKNOWN))
            raise UsageError(f"{rule.place}: the model has no class {pattern!r}{hint}")

    def named(name: str) -> bool:
        if name == UNKNOWN:  # a model may have learned it; no glob means it
            return UNKNOWN in rule.patterns
        return any(fnmatchcase(name, pattern) for pattern in rule.patterns)

    families = [name for name in names.families if named(name)]
    meant = {name for name in names.classes if named(name)}
    meant.update(*(names.families[name] for name in families), families)
    meant.update(name for name, members in names.families.items() if meant.issuperset(members))
    return [*(name in meant for name in names), named(UNKNOWN)]


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
