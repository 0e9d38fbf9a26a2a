"""The fields of an action as a policy writes them, into struct action and back into words."""

import re
from collections.abc import Callable
from difflib import get_close_matches

import numpy as np

from etcpipe.layout import VERDICT_CONSTANTS

# Class selectors, assured forwarding, expedited forwarding, least effort: RFC 2474, 2597,
# 3246, 5865, 8622.
DSCP = {f"CS{i}": 8 * i for i in range(8)}
DSCP |= {f"AF{i}{j}": 8 * i + 2 * j for i in range(1, 5) for j in range(1, 4)}
DSCP |= {"EF": 46, "VOICE-ADMIT": 44, "LE": 1}

# tc writes both halves of a handle in hexadecimal
_HANDLE = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")


def set_field(action: np.ndarray, key: str, value: object) -> None:
    """Set one field of an action from what a policy says.

    Args:
        action: () ACTION.
        key: one of FIELDS.
        value: as TOML has it.

    Raises:
        ValueError: the value is none for this field; says what is.
    """
    SETTERS[key](action, value)
    action["flags"] |= np.uint32(VERDICT_CONSTANTS[f"ACTION_{key.upper()}"])  # NumPy 1 casts no int


def text(action: np.ndarray) -> dict[str, str | int | bool]:
    """Return an action in the words of a policy."""
    names = {number: name for name, number in DSCP.items()}
    priority, dscp = int(action["priority"]), int(action["dscp"])
    words = {
        "priority": f"{priority >> 16:x}:{priority & 0xFFFF:x}",
        "mark": f"{action['mark']:#x}/{action['mark_mask']:#x}",
        "classid": f":{int(action['classid']):x}",
        "dscp": names.get(dscp, dscp),
        "drop": True,
    }
    flags = int(action["flags"])
    return {key: words[key] for key in FIELDS if flags & VERDICT_CONSTANTS[f"ACTION_{key.upper()}"]}


def _set_priority(action: np.ndarray, value: object) -> None:
    action["priority"] = _handle(value, "priority", 0xFFFFFFFF)


def _set_classid(action: np.ndarray, value: object) -> None:
    # the major number is that of the filter which takes the class id
    action["classid"] = _handle(value, "classid", 0xFFFF) & 0xFFFF


def _set_mark(action: np.ndarray, value: object) -> None:
    mark, slash, mask = str(value).partition("/") if isinstance(value, str) else (value, "", "")
    action["mark_mask"] = _number(mask, "the mask of mark", 0xFFFFFFFF) if slash else 0xFFFFFFFF
    action["mark"] = _number(mark, "mark", 0xFFFFFFFF)
    if action["mark"] & ~action["mark_mask"]:
        raise ValueError(f"mark {value!r} has bits outside its mask")


def _set_dscp(action: np.ndarray, value: object) -> None:
    if isinstance(value, str) and value.upper() in DSCP:
        action["dscp"] = DSCP[value.upper()]
        return
    try:
        action["dscp"] = _number(value, "dscp", 63)
    except ValueError:
        close = get_close_matches(str(value).upper(), DSCP, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"dscp is {value!r}, must be a name as CS1, or 0 to 63{hint}") from None


def _set_drop(action: np.ndarray, value: object) -> None:
    if value is not True:
        raise ValueError("drop can only be true: leave it out to let packets pass")


def _handle(value: object, name: str, highest: int) -> int:
    found = _HANDLE.fullmatch(value) if isinstance(value, str) else None
    if found:
        return int(found[1], 16) << 16 | int(found[2], 16)
    if isinstance(value, str):
        raise ValueError(f'{name} is {value!r}, must be major:minor as tc has it, as "1:20"')
    return _number(value, name, highest)


def _number(value: object, name: str, highest: int) -> int:
    try:
        number = int(value, 0) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= highest:
        raise ValueError(f"{name} is {value!r}, must be 0 to {highest:#x}")
    return number


SETTERS: dict[str, Callable[[np.ndarray, object], None]] = {
    "priority": _set_priority,
    "mark": _set_mark,
    "classid": _set_classid,
    "dscp": _set_dscp,
    "drop": _set_drop,
}
FIELDS = tuple(SETTERS)
