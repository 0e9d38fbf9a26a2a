"""etcpipe monitor: taps as they run, on a screen or as JSON lines."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from time import sleep
from typing import Any

import click

from etcpipe import runtime
from etcpipe.cli.common import Device, Verb, is_json, option, print_json, warn
from etcpipe.errors import DataplaneError

Round = list[dict[str, Any]]


@click.command(cls=Verb)
@click.argument("device", required=False, type=Device())
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    metavar="S",
    help="Seconds between two rounds.",
)
@click.option("-c", "--count", type=click.IntRange(1), help="Stop after this many rounds.")
@click.pass_context
def monitor(ctx: click.Context, device: str | None, interval: float, count: int | None) -> None:
    """Follow DEVICE, or all devices that etcpipe is attached to.

    In a terminal it shows flows a second by class, time to a verdict, losses by reason, the
    hosts with the most bytes, and the state of the outputs. Otherwise it prints a line each
    round with packets and flows a second; with -j, a JSON object with the change of each
    counter.

    \b
    Examples:
      etcpipe monitor
      etcpipe monitor eth0 --interval 5
      etcpipe -j monitor | jq '.consumer.verdicts'
    """
    rounds = _rounds(ctx, device, interval, count)
    try:
        if is_json(ctx):
            for moved in rounds:
                for one in moved:
                    print_json(ctx, one)
        elif sys.stdout.isatty() and find_spec("rich"):
            _screen(rounds)
        else:
            if sys.stdout.isatty():
                warn(f"for the full view: {runtime.remedy_for('monitor')}")
            _lines(rounds)
    except KeyboardInterrupt:
        return


def _rounds(
    ctx: click.Context, device: str | None, interval: float, count: int | None
) -> Iterator[Round]:
    """Yield, a round, how far each tap moved; end when nothing is attached."""
    from etcpipe.kernel import netns
    from etcpipe.outputs.movement import look, look_again, movement

    namespace = option(ctx, "netns")
    what = (device, namespace, netns.inode(namespace) if namespace else None)
    before = look(*what)
    if not before:
        raise DataplaneError(f"etcpipe is not attached to {device or 'any device'}")
    rounds = 0
    while before and (count is None or rounds < count):
        sleep(interval)
        after, rounds = look_again(before, *what), rounds + 1
        yield [movement(before[place], after[place]) for place in after if place in before]
        before = after


def _screen(rounds: Iterator[Round]) -> None:
    from rich.live import Live

    from etcpipe.outputs.screen import screen
    from etcpipe.outputs.watch import told_apart

    with Live(screen=True, auto_refresh=False) as live:
        for moved in rounds:
            live.update(screen(told_apart(moved)), refresh=True)


def _lines(rounds: Iterator[Round]) -> None:
    from etcpipe.kernel import first_packets
    from etcpipe.outputs.table import Table
    from etcpipe.outputs.watch import told_apart

    headers = ["device", ">seen/s", ">first/s", ">settled/s", ">taken/s", ">flows/s"]
    table = Table(headers, widths=[15, 10, 10, 10, 10, 10])
    header = True
    for moved in rounds:
        for one in told_apart(moved):
            counters = one["counters"]
            counts = (
                counters.get("PACKETS_SEEN", 0),
                counters.get("PACKETS_FIRST_N", 0),
                counters.get("PACKETS_SETTLED", 0),
                first_packets.taken(counters, one["capture"]),
                counters.get("FLOWS_CREATED", 0),
            )
            rates = [f"{n / one['seconds']:,.0f}" for n in counts]
            click.echo("\n".join(table.lines([[one["device"], *rates]], header)))
            header = False
