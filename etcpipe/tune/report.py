"""A front as text, and as a page that a browser shows."""

from html import escape
from pathlib import Path
from typing import Any

from etcpipe.errors import OutputError
from etcpipe.tune.front import Front, Point

PAGE = "report.html"
AS_GOOD = 0.01  # difference in macro-F1; the intervals are several times as wide
_MEASURED = [">F1", "95 %", ">packets", ">wait", ">ns/flow", ">latency", ">flows/s"]
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>etcpipe tune</title><style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .7em; text-align: right }
tr:nth-child(even) { background: #f4f4f4 } .left { text-align: left } img { max-width: 48% }
</style></head><body>
"""


def lines(front: Front) -> list[str]:
    """Return the front as lines for a terminal."""
    from etcpipe.outputs.table import Table

    table = Table([">point", *_MEASURED, "model", "features"])
    found = [*about(front), "", *table.lines([_cells(one) for one in front.points])]
    if front.baselines:
        found += ["", "columns chosen by a rule, measured the same way:"]
        rule = Table(["rule", *_MEASURED, "model"])
        found += rule.lines([_rule_cells(one) for one in front.baselines])
        found += ["", *versus(front)]
    return found


def about(front: Front) -> list[str]:
    """Describe the search."""
    facts = front.about
    searched = facts.get("searches", {}).get("etcpipe", {}).get("share", [])
    found = [
        f"{facts.get('flows', '?')} flows of {facts.get('captures', '?')} captures, "
        f"{len(front.classes)} classes; {len(searched)} of {facts.get('choices', 0):.1e} choices "
        f"measured; F1 on {facts.get('put_aside', '?')} flows whose {front.split}s nothing has seen"
    ]
    if front.limits:
        words = ", ".join(f"{name} {value:g}" for name, value in front.limits.items())
        is_kept = any(one.chosen for one in front.points)
        found.append(f"limits: {words}" + ("" if is_kept else "; no point keeps them all"))
    if number := facts.get("disturbed"):
        costs = "cost was" if number == 1 else "costs were"
        found.append(f"{number} {costs} measured on a machine that was disturbed")
    return found


def versus(front: Front) -> list[str]:
    """Return, for each rule, the cheapest point of the front that is as good, else the best one.

    "As good" means an F1 at most AS_GOOD lower on the captures that were put aside.
    """
    found = []
    for one in front.baselines:
        as_good = [point for point in front.points if point.f1 >= one["f1"] - AS_GOOD]
        if as_good:
            best = min(as_good, key=lambda point: getattr(point, front.cost))
        else:
            best = max(front.points, key=lambda point: point.f1)
        cheaper = f"{one['cpu_ns'] / best.cpu_ns:.1f} times less processor time"
        if best.latency_s and one["latency_s"]:
            cheaper += f", {one['latency_s'] / best.latency_s:.1f} times less latency"
        if best.flows_per_s and one["flows_per_s"]:
            cheaper += f", {best.flows_per_s / one['flows_per_s']:.1f} times the throughput"
        words = f"point {best.id} has {best.f1 - one['f1']:+.3f} F1 at {cheaper}"
        found.append(f"{one['name']} at {one['at']}: {words}")
    return found


def _cells(point: Point) -> list[str]:
    marks = " knee" * point.knee + " chosen" * point.chosen
    kind = f"{point.kind} {' '.join(str(value) for value in point.parameters.values())}"
    names = ",".join(point.features[:4])
    more = f",+{len(point.features) - 4}" if len(point.features) > 4 else ""
    return [f"{point.id}{marks}", *_numbers(vars(point)), kind, names + more]


def _rule_cells(one: dict[str, Any]) -> list[str]:
    kind = f"{one['kind']} {' '.join(str(value) for value in one['parameters'].values())}"
    return [f"{one['name']} at {one['at']}", *_numbers(one), kind]


def _numbers(one: dict[str, Any]) -> list[str]:
    return [
        f"{one['f1']:.3f}",
        f"{one['f1_low']:.3f}-{one['f1_high']:.3f}",
        str(one["depth"]),
        _seconds(one.get("wait_s")),
        f"{one['cpu_ns']:,.0f} ± {one['cpu_ns_mad']:,.0f}",
        _seconds(one["latency_s"]),
        "-" if one["flows_per_s"] is None else f"{one['flows_per_s']:,.0f}",
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.2f} {unit}"
    return f"{value * 1e6:.0f} us"


def write_page(front: Front, folder: Path, plots: list[Path]) -> Path:
    """Write report.html beside its plots and return its path.

    Raises:
        OutputError: the folder cannot be written.
    """
    parts = [_HEAD, "<h1>etcpipe tune</h1>", *(f"<p>{escape(text)}</p>" for text in about(front))]
    parts += [f'<img src="{escape(plot.name)}" alt="{escape(plot.stem)}">' for plot in plots]
    measured = [name.lstrip(">") for name in _MEASURED]
    head = ["point", *measured, "model", "features"]
    rows = [[*_cells(one)[:-1], ", ".join(one.features)] for one in front.points]
    parts.append(_html_table(head, rows))
    if front.baselines:
        parts.append("<h2>Columns chosen by a rule</h2>")
        head = ["rule", *measured, "model"]
        parts.append(_html_table(head, [_rule_cells(one) for one in front.baselines]))
        parts += [f"<p>{escape(text)}</p>" for text in versus(front)]
    parts.append("<p>Run one: <code>etcpipe classify --point front.json#N file.pcap</code></p>")
    file = folder / PAGE
    try:
        file.write_text("\n".join([*parts, "</body></html>\n"]))
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror}") from error
    return file


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        left = ' class="left"'
        shown = [
            f"<{tag}{left if i > len(_MEASURED) else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(shown)}</tr>"

    return "\n".join(["<table>", row(head, "th"), *(row(one, "td") for one in rows), "</table>"])
