"""etcpipe show, monitor and detach: what is attached, what it counts, and its removal."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import Device, Verb, is_json, option, print_json
from etcpipe.errors import DataplaneError, UsageError

RATES = ("PACKETS_SEEN", "PACKETS_FIRST_N", "PACKETS_REDIRECTED", "FLOWS_CREATED")


@click.command(cls=Verb, configured=False)
@click.argument("device", required=False, type=Device())
@click.pass_context
def show(ctx: click.Context, device: str | None) -> None:
    """Show where etcpipe is attached, or how it is on DEVICE; with -s all counters.

    \b
    Examples:
      etcpipe show
      etcpipe -s show eth0
      etcpipe -j -p show
    """
    taps = _taps(ctx, device)
    if is_json(ctx):
        print_json(ctx, taps)
        return
    if not taps:
        click.echo("etcpipe is attached nowhere")
        return
    from etcpipe.outputs.summary import counter_lines
    from etcpipe.outputs.table import Table

    headers = ["device", "netns", "mode", "loader", ">consumer", ">first", ">seen", ">mirrored"]
    click.echo("\n".join(Table([*headers, ">flows"]).lines(map(_row, taps))))
    if option(ctx, "stats"):
        for tap in taps:
            click.echo(f"\n{tap['device']}\n" + "\n".join(counter_lines(tap["counters"])))


@click.command(cls=Verb)
@click.argument("device", required=False, type=Device())
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, metavar="S", show_default=True)
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many rounds.")
@click.pass_context
def monitor(ctx: click.Context, device: str | None, interval: float, count: int | None) -> None:
    """Follow packets and flows a second on DEVICE, or on all that are attached.

    With -j one object a line: the device, the seconds, and how far each counter moved.
    """
    from etcpipe.outputs.table import Table

    table = Table(
        ["device", ">seen/s", ">first/s", ">mirrored/s", ">flows/s"], widths=[15, 10, 10, 10, 10]
    )
    if not _taps(ctx, device):
        raise DataplaneError(f"etcpipe is not attached to {device or 'any device'}")
    header = True
    try:
        for moved in _movements(ctx, device, interval, count):
            if is_json(ctx):
                print_json(ctx, moved)
                continue
            rates = [f"{moved['counters'].get(name, 0) / moved['seconds']:,.0f}" for name in RATES]
            click.echo("\n".join(table.lines([[moved["device"], *rates]], header)))
            header = False
    except KeyboardInterrupt:
        return


@click.command(cls=Verb, configured=False)
@click.argument("device", required=False, type=Device())
@click.option("--all", "everywhere", is_flag=True, help="From all devices of all namespaces.")
@click.pass_context
def detach(ctx: click.Context, device: str | None, everywhere: bool) -> None:
    """Remove what etcpipe has on DEVICE, and nothing else.

    \b
    Examples:
      etcpipe detach eth0
      etcpipe detach --all
    """
    from etcpipe.kernel import tap

    if (device is None) != everywhere:
        raise UsageError("detach: name a device, or give --all")
    if device is None:
        tap.detach_all()
    elif not tap.detach(device, option(ctx, "netns")):
        raise DataplaneError(f"{device}: etcpipe is not attached")


def _taps(ctx: click.Context, device: str | None) -> list[dict[str, Any]]:
    from etcpipe.kernel import netns, tap

    wanted = option(ctx, "netns")
    inode = netns.inode(wanted) if wanted else None
    return [one for one in tap.show(device, wanted) if inode in (None, one["netns"])]


def _namespace(inode: int) -> str:
    """Return the namespace's name as ip knows it; "-" for the current one."""
    from etcpipe.kernel import netns

    if inode == netns.inode():
        return "-"
    path = netns.find(inode)
    return Path(path).name if path and Path(path).parent == netns.NAMED else str(inode)


def _row(tap: dict[str, Any]) -> Sequence[str]:
    counters = tap["counters"]
    return (
        tap["device"],
        _namespace(tap["netns"]),
        tap["mode"],
        tap["loader"],
        str(tap["pid"] or "-"),
        str(tap["first_n"]),
        f"{counters.get('PACKETS_SEEN', 0):,}",
        f"{counters.get('PACKETS_REDIRECTED', 0):,}",
        f"{tap['flows']:,}",
    )


def _movements(
    ctx: click.Context, device: str | None, interval: float, count: int | None
) -> Iterator[dict[str, Any]]:
    """Yield, a round and device, how far the counters moved; end when nothing is attached."""
    before = {(one["netns"], one["device"]): one["counters"] for one in _taps(ctx, device)}
    then = time.monotonic()
    rounds = 0
    while before and (count is None or rounds < count):
        time.sleep(interval)
        now, rounds = time.monotonic(), rounds + 1
        after = {(one["netns"], one["device"]): one["counters"] for one in _taps(ctx, device)}
        for place in after.keys() & before.keys():
            moved = {name: n - before[place].get(name, 0) for name, n in after[place].items()}
            seconds = round(now - then, 3)
            yield {"device": place[1], "netns": place[0], "seconds": seconds, "counters": moved}
        before, then = after, now
