"""etcpipe show and detach: what is attached, what it counts, and its removal."""

from typing import Any

import click

from etcpipe.cli.common import Device, Verb, is_json, option, print_json
from etcpipe.errors import DataplaneError, UsageError


@click.command(cls=Verb, configured=False)
@click.argument("device", required=False, type=Device())
@click.pass_context
def show(ctx: click.Context, device: str | None) -> None:
    """Show where etcpipe is attached, or its state on DEVICE; with -s all counters.

    With -s or -j the figures are read from the kernel. Without, they are those that a running
    attach reported in the last second, and flows are those of its last walk through the table.

    \b
    Examples:
      etcpipe show
      etcpipe -s show eth0
      etcpipe -j -p show
    """
    is_plain = not (is_json(ctx) or option(ctx, "stats"))
    glanced = _glance(ctx, device) if is_plain else None
    taps = _taps(ctx, device) if glanced is None else glanced
    if is_json(ctx):
        print_json(ctx, taps)
        return
    from etcpipe.cli import taps_table

    click.echo("\n".join(taps_table.lines(taps, device)))
    for tap in taps:
        if tap.get("shadow"):  # a tap of an older version has none
            from etcpipe.shadow import report_lines

            click.echo("\n".join(["", tap["device"], *report_lines(tap["shadow"])]))
    if option(ctx, "stats"):
        from etcpipe.outputs.summary import counter_lines

        for tap in taps:
            click.echo(f"\n{tap['device']}\n" + "\n".join(counter_lines(tap["counters"])))


@click.command(cls=Verb, configured=False)
@click.argument("device", required=False, type=Device())
@click.option(
    "--all", "everywhere", is_flag=True, help="Detach from all devices of all namespaces."
)
@click.pass_context
def detach(ctx: click.Context, device: str | None, everywhere: bool) -> None:
    """Remove what etcpipe has on DEVICE, and nothing else.

    \b
    Examples:
      etcpipe detach eth0
      etcpipe detach --all
    """
    from etcpipe.kernel import status

    if (device is None) != everywhere:
        raise UsageError("detach: name a device, or give --all")
    if device is None:
        status.detach_all()
    elif not status.detach(device, option(ctx, "netns")):
        raise DataplaneError(f"{device}: etcpipe is not attached")


def _glance(ctx: click.Context, device: str | None) -> list[dict[str, Any]] | None:
    """Return what running taps say of themselves, at once; None where that is not all."""
    from etcpipe.kernel import glance, netns

    wanted = option(ctx, "netns")
    inode = netns.inode(wanted) if wanted or device else None
    return glance.taps(inode, device)


def _taps(ctx: click.Context, device: str | None) -> list[dict[str, Any]]:
    from etcpipe.kernel import netns, status
    from etcpipe.outputs.watch import read_reports

    wanted = option(ctx, "netns")
    inode = netns.inode(wanted) if wanted else None
    taps = [one for one in status.show(device, wanted) if inode in (None, one["netns"])]
    reports = read_reports((one["netns"], one["device"]) for one in taps)
    running = {(report["netns"], report["device"]): report for report in reports}
    for one in taps:
        report = running.get((one["netns"], one["device"]), {})
        one["model"], one["shadow"] = report.get("model"), report.get("shadow")
    return taps
