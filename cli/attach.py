"""etcpipe attach: a device's traffic, classified live."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli.common import Device, Verb, compute_option, is_json, option
from etcpipe.cli.stopper import Stopper
from etcpipe.cli.tracking import tracking_options
from etcpipe.errors import EtcpipeError

if TYPE_CHECKING:
    from etcpipe.live import Live
    from etcpipe.outputs import Sink
    from etcpipe.outputs.summary import Summary


@click.command(cls=Verb)
@click.argument("device", type=Device())
@click.option("-m", "--model", type=click.Path(), help="Model file; default: the one that ships.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Write verdicts; the extension is the format: .jsonl, .csv or .parquet.",
)
@click.option("--first", type=int, metavar="N", help="Packets of a flow to mirror.")
@click.option(
    "--wait", type=float, metavar="S", help="Judge a flow that was silent for so many seconds."
)
@click.option("--filter", "expression", metavar="EXPR", help="Packets to look at, as in tcpdump.")
@tracking_options
@click.option(
    "--flows",
    type=click.Path(),
    metavar="FILE",
    help="Write a JSON line for each flow that ends; - is standard output.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "xdp", "tc"]),
    default="auto",
    help="Hook that tracks flows.",
)
@click.option(
    "--loader",
    type=click.Choice(["auto", "libbpf", "bcc"]),
    default="auto",
    help="What loads the programs.",
)
@click.option(
    "--forward",
    type=Device(),
    metavar="DEVICE2",
    help="Be the wire between DEVICE and DEVICE2, past bridge and routing.",
)
@click.option(
    "--capture",
    type=click.Choice(["afxdp", "ringbuf"]),
    default="afxdp",
    help="How packets come from the kernel; ringbuf costs a fraction.",
)
@click.option(
    "--queues",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="AF_XDP queues, each with a thread that waits at it.",
)
@compute_option
@click.option("--duration", type=float, metavar="S", help="End after so many seconds.")
@click.option(
    "-c", "--count", type=click.IntRange(1), metavar="FLOWS", help="End after so many verdicts."
)
@click.option(
    "--policy",
    type=click.Path(),
    metavar="FILE",
    help="Let verdicts act: priority, mark, DSCP, drop, as FILE (.toml) says.",
)
@click.option("--keep", is_flag=True, help="Leave the programs attached, for the next attach.")
@click.pass_context
def attach(
    ctx: click.Context,
    device: str,
    model: str | None,
    output: str | None,
    first: int | None,
    wait: float | None,
    expression: str | None,
    tracking: Mapping[str, Any],
    flows: str | None,
    mode: str,
    forward: str | None,
    loader: str,
    capture: str,
    queues: int,
    compute: str,
    duration: float | None,
    count: int | None,
    policy: str | None,
    keep: bool,
) -> None:
    """Classify the traffic of DEVICE as it passes; only a policy changes it.

    Ctrl-C detaches and prints a summary.

    \b
    Examples:
      etcpipe attach eth0
      etcpipe -j attach eth0 | jq 'select(.etcpipe.label == "openvpn")'
      etcpipe attach eth0 --forward eth1
      etcpipe -n blue attach veth0 --duration 60 -o flows.csv
    """
    from etcpipe import live
    from etcpipe.outputs import format_of, open_output
    from etcpipe.outputs.flows import open_flow_lines
    from etcpipe.outputs.summary import Summary

    if output:
        format_of(output)  # refuse before anything is attached
    with (
        Stopper() as stopper,
        live.attach(
            device,
            model=model,
            first_n=first,
            mode=mode,
            forward=forward,
            loader=loader,
            capture=capture,
            queues=queues,
            compute=compute,
            netns=option(ctx, "netns"),
            wait_s=wait,
            filter=expression,
            tracking=tracking,
            duration_s=duration,
            keep=keep,
            policy=policy,
        ) as tap,
        # Last: a mistyped device must not empty the results of an earlier run.
        open_output(output) if output else nullcontext() as file,
        open_flow_lines(flows, device) if flows else nullcontext() as flow_lines,
    ):
        if flow_lines:
            tap.report_flows(flow_lines.write)
        stopper.stops(tap.stop)
        click.echo(_started(device, tap), err=True)
        sinks = [_stdout(is_json(ctx)), *([file] if file else [])]
        summary, failure = Summary(), None
        try:
            _follow(tap, device, sinks, summary, count)
        except EtcpipeError as error:
            failure = error  # the device is gone: say what was seen until then
            flow_lines = None
        if flow_lines:
            tap.finish_flows()
        stopper.leave()
        counters, lost = tap.counters(), tap.lost()
    # With -j, standard output carries verdict lines and nothing else.
    click.echo("\n".join(_summary_lines(summary, counters, lost)), err=is_json(ctx))
    if failure:
        raise failure


def _stdout(as_json: bool) -> "Sink":
    from etcpipe.outputs.jsonl import JsonLines
    from etcpipe.outputs.table import LiveTable

    return JsonLines(sys.stdout.buffer) if as_json else LiveTable(click.echo)


def _follow(
    tap: "Live", device: str, sinks: list["Sink"], summary: "Summary", count: int | None
) -> None:
    """Pass verdicts on until the tap stops, or `count` of them were made."""
    from etcpipe.outputs import columns_of, wall_clock_offset_ns

    for verdicts in tap:
        if count is not None:
            verdicts = verdicts.head(count - summary.flows)
        summary.add(verdicts)
        columns = columns_of(verdicts, device, wall_clock_offset_ns())
        for sink in sinks:
            sink.write(columns)
        if count is not None and summary.flows >= count:
            tap.stop()
            return


def _started(device: str, tap: "Live") -> str:
    return (
        f"{device}: attached, {tap.mode} ({tap.mode_reason}), {tap.loader}, "
        f"model {tap.model.name} by {tap.model.engine}; Ctrl-C ends"
    )


def _summary_lines(summary: "Summary", counters: dict[str, int], lost: dict[str, int]) -> list[str]:
    from etcpipe.outputs.summary import counter_lines, loss_line

    flows = summary.lines(live=True) if summary.flows else ["no flows"]
    return ["", *flows, "", *counter_lines(counters), "", loss_line(counters, lost)]
