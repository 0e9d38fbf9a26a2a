"""Shapings as text: "pad=bucket:128,dummy=0.1,delay=exp:50ms"."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.shaping import changes
from etcpipe.shaping.packets import Packets

Change = Callable[[Packets, np.random.Generator], Packets]

# What `--shape default` goes through: cheap for an attacker first, then the strong ones.
SUITE = (
    "pad=bucket:64",
    "pad=bucket:256",
    "pad=rand:200",
    "pad=mtu",
    "delay=exp:50ms",
    "delay=exp:500ms",
    "iat=const:20ms",
    "dummy=0.1",
    "dummy=0.5",
    "split=600",
    "split=200",
    "prepend=4",
)

_NS = {"us": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class Shaping:
    """Changes that are made one after another.

    Attributes:
        text: what parse() was given.
        others: the same in other strengths, as text: what a defender may have trained with.
    """

    text: str
    changes: tuple[Change, ...]
    others: tuple[str, ...]

    def __call__(self, packets: Packets, rng: np.random.Generator) -> Packets:
        for change in self.changes:
            packets = change(packets, rng)
        return packets


@dataclass(frozen=True)
class _Kind:
    """One form of a change.

    Attributes:
        form: what a user writes, with one strength: N (bytes, packets), P (0 to 1), T (a
            time), R (kbit/s), C (percent); or none.
        others: in place of scaled strengths, where there is none to scale.
    """

    form: str
    change: Callable[..., Packets]
    others: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        return re.sub(r"[NPTRC]$", "", self.form)


_KINDS = (
    _Kind("pad=bucket:N", changes.pad_to_multiple),
    _Kind("pad=rand:N", changes.pad_at_random),
    _Kind("pad=mtu", changes.pad_to_most, ("pad=bucket:512", "pad=exp")),
    _Kind("pad=exp", changes.pad_to_power, ("pad=bucket:128", "pad=bucket:512")),
    _Kind("dummy=P", changes.add_dummies),
    _Kind("dummy=client:P", lambda p, rng, share: changes.add_dummies(p, rng, share, "client")),
    _Kind("dummy=server:P", lambda p, rng, share: changes.add_dummies(p, rng, share, "server")),
    _Kind("prepend=N", changes.prepend),
    _Kind("front=N", changes.front),
    _Kind("delay=exp:T", changes.delay),
    _Kind("delay=const:T", changes.delay_by),
    _Kind("delay=jitter:C", changes.jitter),
    _Kind("iat=const:T", changes.pace),
    _Kind("split=N", changes.split),
    _Kind("merge", changes.merge, ("merge",)),
    _Kind("rate=R", lambda p, rng, kbit: changes.limit_rate(p, rng, kbit * 1e3)),
    _Kind("retrans=P", changes.retransmit),
    _Kind("loss=P", changes.lose),
    _Kind("reorder=P", changes.reorder),
    _Kind("truncate=N", changes.truncate),
    _Kind("sliver=N", changes.sliver),
)

FORMS = tuple(kind.form for kind in _KINDS)


def parse(text: str) -> Shaping:
    """Return the shaping that a text describes.

    Raises:
        UsageError: it is not of the forms that FORMS lists.
    """
    parts = [_parse_one(one.strip()) for one in text.split(",")]
    weaker = ",".join(others[0] for _, others in parts)
    stronger = ",".join(others[-1] for _, others in parts)
    return Shaping(text, tuple(change for change, _ in parts), (weaker, stronger))


def _parse_one(text: str) -> tuple[Change, tuple[str, ...]]:
    for kind in _KINDS:
        if text == kind.form and kind.others:
            return kind.change, kind.others
        if not kind.others and text.startswith(kind.prefix):
            value = _strength(text[len(kind.prefix) :], kind.form[-1])
            if value is not None:
                others = tuple(_scaled(kind, value, factor) for factor in (0.5, 2))
                return _bind(kind.change, value), others
    raise UsageError(f"no shaping {text!r}: write one of {', '.join(FORMS)}")


def _bind(change: Callable[..., Packets], value: float) -> Change:
    return lambda packets, rng: change(packets, rng, value)


def _strength(text: str, unit: str) -> float | None:
    """Return a strength in the unit that changes take, None if the text is none."""
    if unit == "T":
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
        return float(found[1]) * _NS[found[2]] if found else None
    if unit == "N":
        return int(text) if re.fullmatch(r"[1-9]\d{0,5}", text) else None
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        return None
    value = float(text)
    return value if value > 0 and (unit != "P" or value <= 1) else None


def _scaled(kind: _Kind, value: float, factor: float) -> str:
    unit, scaled = kind.form[-1], value * factor
    if unit == "T":
        return f"{kind.prefix}{scaled / 1e3:.3f}us"
    if unit == "N":
        return f"{kind.prefix}{max(round(scaled), 1)}"
    return f"{kind.prefix}{min(scaled, 1.0) if unit == 'P' else scaled:g}"
