"""A terminal's view of taps that run, 80 columns wide or more."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from etcpipe.outputs.summary import words
from etcpipe.outputs.table import milliseconds

Movement = dict[str, Any]

CLASSES = 9
TALKERS = 6
# The rest of 80 columns is between and beside the two halves.
LEFT, RIGHT = 40, 37


def screen(moved: Sequence[Movement]) -> RenderableType:
    """Return the view of all taps, see movement.py."""
    return Group(*(part for one in moved for part in _tap(one)))


def _tap(one: Movement) -> list[RenderableType]:
    consumer = one["consumer"]
    parts: list[RenderableType] = [_title(one), _halves(_packets(one), _times(consumer))]
    if consumer is None:
        return [*parts, Text(_why_no_consumer(one), style="yellow"), Text()]
    parts += [Text(), _halves(_classes(one, consumer), _talkers(consumer))]
    if one["lost"]:
        parts += [Text(), _losses(one)]
    if consumer["outputs"]:
        parts += [Text(), _outputs(consumer)]
    return [*parts, Text()]


def _title(one: Movement) -> Rule:
    time = datetime.fromtimestamp(one["time"]).strftime("%H:%M:%S")
    text = Text.assemble((one["device"], "bold"), f"  {one['mode']}, {one['loader'].split()[0]}")
    if one["consumer"]:
        model = one["consumer"]["model"]
        text.append(f"  {model['name']}, {model['engine']}")
    text.truncate(66, overflow="ellipsis")
    return Rule(Text.assemble(text, f"  {time}"), align="left")


def _why_no_consumer(one: Movement) -> str:
    if one["pid"]:
        return f"Waiting for what process {one['pid']} has to say."
    return "Nobody consumes: traffic passes, flows are tracked, nothing is judged."


def _packets(one: Movement) -> Table:
    counters, seconds = one["counters"], one["seconds"] or 1.0
    rows = [
        ("packets/s", counters.get("PACKETS_SEEN", 0)),
        ("first of flows/s", counters.get("PACKETS_FIRST_N", 0)),
        ("settled/s", counters.get("PACKETS_SETTLED", 0)),
        ("lost/s", sum(one["lost"].values())),
        ("new flows/s", counters.get("FLOWS_CREATED", 0)),
    ]
    table = _table([("", "left"), ("", "right")], LEFT)
    for name, n in rows:
        style = "bold red" if name == "lost/s" and n else ""
        table.add_row(name, Text(f"{n / seconds:,.0f}", style=style))
    table.add_row("flows in table", f"{one['flows']:,}")
    return table


def _times(consumer: Movement | None) -> Table:
    table = _table([("time to verdict", "left"), ("median", "right"), ("99 %", "right")], RIGHT)
    spans = consumer["latency_s"] if consumer else {}
    for name in spans and ("total", "wait", "queue", "infer"):
        table.add_row(name, _span(spans[name]["median"]), _span(spans[name]["p99"]))
    return table


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else milliseconds(seconds * 1e6)


def _classes(one: Movement, consumer: Movement) -> Table:
    columns = [("class", "left"), ("flows/s", "right"), ("total", "right"), ("share", "right")]
    table = _table(columns, LEFT)
    totals, seconds = consumer["verdicts_total"], one["seconds"] or 1.0
    all_flows = sum(totals.values()) or 1
    order = sorted(totals, key=lambda name: (-totals[name], name))
    for name in order[:CLASSES]:
        share = totals[name] / all_flows
        rate = consumer["verdicts"].get(name, 0) / seconds
        per_second = f"{rate:.1f}" if rate < 1000 else scaled(rate)
        table.add_row(name, per_second, scaled(totals[name]), f"{share:.0%}")
    if len(order) > CLASSES:
        rest = sum(totals[name] for name in order[CLASSES:])
        table.add_row(f"{len(order) - CLASSES} more", "", scaled(rest), "")
    return table


def _talkers(consumer: Movement) -> Table:
    table = _table([("initiator", "left"), ("bytes", "right"), ("flows", "right")], RIGHT)
    for talker in consumer["talkers"][:TALKERS]:
        table.add_row(talker["address"], scaled(talker["bytes"], "B"), f"{talker['flows']:,}")
    for name, title in (("probability", "mean probability"), ("unknown", "unknown")):
        value = consumer[name]
        table.add_row(Text(title, style="dim"), "-" if value is None else f"{value:.0%}", "")
    return table


def _losses(one: Movement) -> Text:
    text = ", ".join(f"{words(name)} {n:,}" for name, n in one["lost"].items())
    return Text(f"lost: {text}", style="red")


def _outputs(consumer: Movement) -> Table:
    columns = [("output", "left"), ("written", "right"), ("waiting", "right")]
    table = _table([*columns, ("dropped", "right"), ("", "left")], LEFT + RIGHT + 1)
    for output in consumer["outputs"]:
        dropped = sum(output["dropped"].values())
        table.add_row(
            output["output"],
            scaled(output["written"]),
            scaled(output["waiting"]),
            Text(scaled(dropped), style="red" if dropped else ""),
            Text(output["error"] or "", style="red"),
        )
    return table


def _table(columns: Sequence[tuple[str, Any]], width: int) -> Table:
    titled = any(title for title, _ in columns)
    table = Table(box=None, width=width, show_header=titled, header_style="bold", pad_edge=False)
    for i, (title, justify) in enumerate(columns):
        is_text = i == 0
        table.add_column(
            title,
            justify=justify,
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if is_text else None,
        )
    return table


def _halves(left: Table, right: Table) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(left, right)
    return grid


def scaled(n: float, unit: str = "") -> str:
    """Return a number in at most seven characters and its unit, as 1.5 GB."""
    for prefix in ("", "k", "M", "G", "T"):
        if n < (1000 if unit else 10_000) or prefix == "T":
            break
        n /= 1000
    digits = f"{n:,.1f}" if prefix else f"{n:,.0f}"
    return f"{digits} {prefix}{unit}".rstrip()
