"""How far a tap moved between two looks at it: what monitors show."""

from collections.abc import Mapping
from time import sleep, time
from typing import Any

from etcpipe.kernel import status
from etcpipe.kernel.first_packets import STAGE_OF
from etcpipe.outputs.histogram import quantile
from etcpipe.outputs.watch import read_reports
from etcpipe.verdict import UNKNOWN

Look = dict[str, Any]
Place = tuple[int, str]

# How long a report is waited for that is newer than the one seen before.
RENEWAL_S = 2.0


def look(device: str | None, namespace: str | None, inode: int | None) -> dict[Place, Look]:
    """Return taps by (inode of the namespace, device), each as it is now.

    A look is what status.show() says, and under "report" what the consumer says, if one runs.

    Args:
        device, namespace: as status.show() takes them.
        inode: of the namespace that is asked for, None: all.
    """
    shown = [one for one in status.show(device, namespace) if inode in (None, one["netns"])]
    places = [(one["netns"], one["device"]) for one in shown]
    reports = {(r["netns"], r["device"]): r for r in read_reports(places)}
    now = time()
    return {
        place: {
            **one,
            "capture": one["settings"]["capture"],
            "time": now,
            "report": reports.get(place),
        }
        for place, one in zip(places, shown, strict=True)
    }


def look_again(before: Mapping[Place, Look], *args: Any) -> dict[Place, Look]:
    """As look(), once each report that there was before has been renewed, or is gone."""
    end = time() + RENEWAL_S
    while True:
        after = look(*args)
        old = [
            place
            for place, one in after.items()
            if one["report"]
            and place in before
            and before[place]["report"]
            and one["report"]["time"] == before[place]["report"]["time"]
        ]
        if not old or time() > end:
            return after
        sleep(0.05)


def movement(before: Look, after: Look) -> dict[str, Any]:
    """Return how far a tap moved, in the form that `etcpipe -j monitor` prints.

    Times, probabilities and shares are of the verdicts in between; totals are since the attach.
    """
    old, new = before["report"], after["report"]
    ours = new is not None and old is not None and old["since"] == new["since"]
    seconds = (new["time"] - old["time"]) if ours else after["time"] - before["time"]
    first, last = (old, new) if ours else (before, after)
    moved = {
        "device": after["device"],
        "netns": after["netns"],
        "time": after["time"],
        "seconds": round(seconds, 3),
        "mode": after["mode"],
        "loader": after["loader"],
        "capture": after["capture"],
        "pid": after["pid"],
        "flows": after["flows"],
        "counters": _differences(first["counters"], last["counters"]),
    }
    lost = {name: n for name, n in moved["counters"].items() if name in STAGE_OF and n}
    if not ours:
        return {**moved, "lost": lost, "consumer": None}
    return {**moved, "lost": lost, "consumer": _consumer(old, new)}


def _consumer(old: Look, new: Look) -> dict[str, Any]:
    latency = {
        name: _histogram(old["latency_s"][name], new["latency_s"][name])
        for name in new["latency_s"]
    }
    probability = _histogram(old["probability"], new["probability"])
    verdicts = _differences(old["verdicts"], new["verdicts"])
    flows = sum(verdicts.values())
    return {
        "model": new["model"],
        "since": new["since"],
        "verdicts": verdicts,
        "verdicts_total": new["verdicts"],
        "unknown": verdicts.get(UNKNOWN, 0) / flows if flows else None,
        "probability": probability["sum"] / flows if flows else None,
        "latency_s": {
            name: {"median": quantile(spans, 0.5), "p99": quantile(spans, 0.99)}
            for name, spans in latency.items()
        },
        "talkers": new["talkers"],
        "outputs": new["outputs"],
    }


def _differences(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    return {name: max(0, n - old.get(name, 0)) for name, n in new.items()}


def _histogram(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    counts = [n - before for n, before in zip(new["counts"], old["counts"], strict=True)]
    return {"bounds": new["bounds"], "counts": counts, "sum": new["sum"] - old["sum"]}
