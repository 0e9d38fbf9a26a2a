"""The HTB tree of a policy: classes for the device's egress that rules name by `priority`.

    [tree]
    rate = "100mbit"                # what the link carries
    default = "normal"              # the class of all packets that no rule gives another one
    leaf = "fq_codel"               # each class's queue, so if not given; or "sfq", or "pfifo",
                                    # a plain one; where the kernel lacks one, the next of these

    [tree.class.normal]
    id = "1:10"
    rate = "90mbit"                 # guaranteed; up to ceil where others leave room
    ceil = "100mbit"                # as the tree's rate if not given
    prio = 1                        # who gets that room first: 0 before 7; 3 if not given

    [tree.class.bulk]
    id = "1:20"
    rate = "5mbit"
    ceil = "20mbit"

Source: tc-htb(8).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from etcpipe import toml_text
from etcpipe.errors import UsageError

TREE_KEYS = ("rate", "default", "leaf", "class")
LEAVES = ("fq_codel", "sfq", "pfifo")  # the best first; HTB gives each class the last by itself
CLASS_KEYS = ("id", "rate", "ceil", "prio")
# HTB's classes of a tree borrow from a common parent; no policy can name it.
PARENT = 0xFFFE
PRIO = 3
_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)(bit|kbit|mbit|gbit)")
_ID = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")
_NAME = re.compile(r"[A-Za-z][\w-]{0,31}")
# A class may send so much in one turn. HTB warns below a packet and above 200000 bytes.
QUANTUM_MIN, QUANTUM_MAX = 1514, 60_000


@dataclass(frozen=True)
class TreeClass:
    """One class: rates in bit/s, minor is the second half of its id."""

    name: str
    minor: int
    rate: int
    ceil: int
    prio: int


@dataclass(frozen=True)
class Tree:
    """A tree: rate in bit/s, major is the first half of all ids, default a class's name."""

    major: int
    rate: int
    default: str
    leaf: str
    classes: tuple[TreeClass, ...]

    def handle(self) -> str:
        """Return the root's handle as tc writes it."""
        return f"{self.major:x}:"

    def commands(self, device: str) -> list[list[str]]:
        """Return the tc commands that make the tree on a device, in their order."""
        handle = self.handle()
        (default,) = [one.minor for one in self.classes if one.name == self.default]
        qdisc, add = ["tc", "qdisc", "add", "dev", device], ["tc", "class", "add", "dev", device]
        parent = f"{handle}{PARENT:x}"
        found = [
            [*qdisc, "root", "handle", handle, "htb", "default", f"{default:x}"],
            [*add, "parent", handle, "classid", parent, *_rates(self.rate, self.rate)],
        ]
        for one in self.classes:
            classid = f"{handle}{one.minor:x}"
            rates = [*_rates(one.rate, one.ceil), "prio", str(one.prio)]
            found.append([*add, "parent", parent, "classid", classid, *rates])
            if self.leaf != LEAVES[-1]:
                found.append([*qdisc, "parent", classid, self.leaf])
        return found


def undo_command(device: str) -> list[str]:
    """Return the tc command that takes a tree away; the kernel then puts its own qdisc there."""
    return ["tc", "qdisc", "del", "dev", device, "root"]


def parse(table: object, name: str) -> Tree:
    """Return the tree that a policy's [tree] describes.

    Raises:
        UsageError: something in it is wrong; the message begins with `name`.
    """
    place = f"{name}: [tree]"
    if not isinstance(table, dict):
        raise UsageError(f"{place} must be a table")
    toml_text.check_keys(table, TREE_KEYS, place)
    rate = _rate(table.get("rate"), f"{place} rate")
    listed = table.get("class")
    if not isinstance(listed, dict) or not listed:
        raise UsageError(f"{place} has no classes: begin each with [tree.class.NAME]")
    parsed = [_class(key, value, rate, name) for key, value in listed.items()]
    classes = tuple(one for _, one in parsed)
    majors = {major for major, _ in parsed}
    default = table.get("default")
    if not isinstance(default, str) or default not in listed:
        hint = toml_text.suggestion(str(default), tuple(listed))
        raise UsageError(f"{place} default must name one of its classes{hint}")
    if len(majors) > 1 or len({one.minor for one in classes}) < len(classes):
        raise UsageError(f"{place} ids must be different and begin alike, as 1:10 and 1:20")
    if (total := sum(one.rate for one in classes)) > rate:
        raise UsageError(f"{place} classes are promised {rate_text(total)} of {rate_text(rate)}")
    leaf = table.get("leaf", LEAVES[0])
    if leaf not in LEAVES:
        raise UsageError(f"{place} leaf is {leaf!r}, must be one of {', '.join(LEAVES)}")
    return Tree(majors.pop(), rate, default, leaf, classes)


def check_priority(tree: Tree, priority: int, place: str) -> None:
    """Raise UsageError if a rule's priority names a class of this tree that is not there."""
    major, minor = priority >> 16, priority & 0xFFFF
    if major == tree.major and minor not in [one.minor for one in tree.classes]:
        ids = ", ".join(f"{major:x}:{one.minor:x} {one.name}" for one in tree.classes)
        raise UsageError(f"{place}: no class {major:x}:{minor:x} in [tree] (there are {ids})")


def rate_text(rate: int) -> str:
    """Return bit/s as a policy has a rate."""
    for unit, factor in reversed(_UNITS.items()):
        if rate >= factor:
            return f"{rate / factor:g}{unit}"
    return f"{rate}bit"


def _class(key: str, table: object, tree_rate: int, name: str) -> tuple[int, TreeClass]:
    """Return a class and its id's first half."""
    place = f"{name}: [tree.class.{key}]"
    if not _NAME.fullmatch(key) or not isinstance(table, dict):
        raise UsageError(f"{place} must be a table under a name of letters and digits")
    toml_text.check_keys(table, CLASS_KEYS, place)
    major, minor = _id(table.get("id"), f"{place} id")
    rate = _rate(table.get("rate"), f"{place} rate")
    ceil = _rate(table["ceil"], f"{place} ceil") if "ceil" in table else tree_rate
    if not rate <= ceil <= tree_rate:
        raise UsageError(
            f"{place} rate {rate_text(rate)} must not exceed ceil {rate_text(ceil)}, nor that "
            f"the tree's {rate_text(tree_rate)}"
        )
    prio = table.get("prio", PRIO)
    if isinstance(prio, bool) or not isinstance(prio, int) or not 0 <= prio <= 7:
        raise UsageError(f"{place} prio is {prio!r}, must be 0 to 7")
    return major, TreeClass(key, minor, rate, ceil, prio)


def _id(value: object, place: str) -> tuple[int, int]:
    found = _ID.fullmatch(value) if isinstance(value, str) else None
    major, minor = (int(found[1], 16), int(found[2], 16)) if found else (0, 0)
    if not 1 <= major <= 0xFFFE or not 1 <= minor < PARENT:
        raise UsageError(f'{place} is {value!r}, must be major:minor as tc has it, as "1:10"')
    return major, minor


def _rate(value: object, place: str) -> int:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    rate = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if rate < 1000:
        raise UsageError(f'{place} is {value!r}, must be a rate as "500kbit" or "20mbit"')
    return rate


def _rates(rate: int, ceil: int) -> Sequence[str]:
    quantum = min(max(rate // 80, QUANTUM_MIN), QUANTUM_MAX)
    return "htb", "rate", f"{rate}bit", "ceil", f"{ceil}bit", "quantum", str(quantum)
