"""etcpipe attach: a device's traffic, classified live."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli.asking import model_options, rows_options
from etcpipe.cli.common import Device, ModelFile, Verb, compute_option, is_json, option, warn
from etcpipe.cli.service import ctrl_c_ends, default_output, is_service, serving
from etcpipe.cli.stopper import Stopper
from etcpipe.cli.tracking import tracking_options
from etcpipe.errors import EtcpipeError

if TYPE_CHECKING:
    from etcpipe.live.tap import Live
    from etcpipe.outputs import Sink
    from etcpipe.outputs.live import LiveOutputs
    from etcpipe.outputs.summary import Summary
    from etcpipe.unknown import UnknownFlows

EXIT_DEGRADED = 3


@click.command(cls=Verb)
@click.argument("device", type=Device())
@model_options
@click.option(
    "--shadow",
    type=ModelFile(),
    metavar="MODEL",
    help="A second model to compare: show and the summary say how often it agrees.",
)
@click.option(
    "--stage0",
    type=click.Choice(["user", "kernel"]),
    default="user",
    help="Where the first stage of the cascade runs; kernel: flows that it is sure of are not "
    "copied any further.",
)
@click.option(
    "--point",
    type=click.Path(),
    metavar="FRONT#N",
    help="A point that tune found: runs its model on features that the kernel gathers.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    multiple=True,
    metavar="TARGET",
    help="Send verdicts to a file (.jsonl, .csv, .parquet; % makes a pattern of times), "
    "syslog:, prometheus://, ipfix:// or kafka://ADDRESS; may be repeated.",
)
@rows_options
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
    help="Hook at which packets are tracked and, with --forward, forwarded.",
)
@click.option(
    "--loader",
    type=click.Choice(["auto", "libbpf", "bcc"]),
    default="auto",
    help="Library that loads the programs.",
)
@click.option(
    "--forward",
    type=Device(),
    metavar="DEVICE2",
    help="Forward mode: be the wire between DEVICE and DEVICE2, past bridge and routing.",
)
@click.option(
    "--capture",
    type=click.Choice(["afxdp", "ringbuf", "features"]),
    help="How packets come from the kernel: afxdp is the default; ringbuf costs a fraction; "
    "features copies none, as the kernel gathers the model's input.",
)
@click.option(
    "--queues",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="AF_XDP queues, each with a thread of its own.",
)
@compute_option
@click.option(
    "--duration", "duration_s", type=float, metavar="S", help="Stop after this many seconds."
)
@click.option(
    "-c", "--count", type=click.IntRange(1), metavar="FLOWS", help="Stop after this many verdicts."
)
@click.option(
    "--policy",
    type=click.Path(),
    metavar="FILE",
    help="Let verdicts set priority, mark or DSCP, or drop, as FILE (.toml) says.",
)
@click.option(
    "--save-unknown",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the first packets of flows without a name: a ring of 16 captures of 16 MiB.",
)
@click.option(
    "--keep", is_flag=True, help="Leave the programs attached when it ends, for the next attach."
)
@click.pass_context
def attach(
    ctx: click.Context,
    device: str,
    output: tuple[str, ...],
    flows: str | None,
    count: int | None,
    save_unknown: Path | None,
    **options: Any,
) -> int:
    """Classify the traffic of DEVICE live. Only a policy changes traffic.

    Ctrl-C detaches and prints a summary.

    \b
    Examples:
      etcpipe attach eth0
      etcpipe -j attach eth0 | jq 'select(.etcpipe.label == "openvpn")'
      etcpipe attach eth0 --forward eth1
      etcpipe attach eth0 --cascade cascade.toml
      etcpipe attach eth0 --point tuned/front.json#7
      etcpipe -n blue attach veth0 --duration 60 -o flows.csv
      etcpipe attach eth0 -o /var/log/etcpipe/eve.jsonl -o prometheus://127.0.0.1:9617
    """
    from etcpipe.live import attach as live
    from etcpipe.live.requests import Requests
    from etcpipe.outputs.live import LiveOutputs
    from etcpipe.outputs.summary import Summary, loss_line
    from etcpipe.outputs.targets import Targets

    netns = option(ctx, "netns")
    with (
        Stopper() as stopper,
        Targets(output or default_output(device)) as targets,
        live.attach(device, netns=netns, **options) as tap,  # they are named as its parameters
        LiveOutputs(tap, netns, targets, flows, _stdout(is_json(ctx))) as outputs,
    ):
        stopper.stops(tap.stop)
        tap.at_checks(Requests(tap, netns).check)
        unknown = _unknown(tap, save_unknown)
        click.echo(f"{_started(device, tap)}{ctrl_c_ends('; ')}", err=True)
        summary, failure = Summary(), None
        try:
            with serving(ctx, tap, stopper, _started(device, tap), outputs.reopen):
                _follow(tap, outputs, summary, count, unknown)
            outputs.finish()
        except EtcpipeError as error:
            failure = error  # the device is gone: say what was seen until then
        stopper.leave()
        counters, lost = tap.counters() | (unknown.counters() if unknown else {}), tap.lost()
    # With -j, standard output carries verdict lines and nothing else.
    lines = _summary_lines(summary, counters, loss_line(counters, lost, tap.capture))
    lines += _shadow_lines(tap.shadow_report())
    click.echo("\n".join(lines), err=is_json(ctx))
    if failure:
        raise failure
    for target, dropped in outputs.dropped.items():
        warn(f"{target}: {dropped:,} events were dropped")
    return EXIT_DEGRADED if outputs.dropped else 0


def _stdout(as_json: bool) -> list["Sink"]:
    from etcpipe.outputs.jsonl import JsonLines
    from etcpipe.outputs.table import LiveTable

    if as_json:
        return [JsonLines(sys.stdout.buffer)]
    return [] if is_service() else [LiveTable(click.echo)]  # nobody reads a service's tables


def _unknown(tap: "Live", folder: Path | None) -> "UnknownFlows | None":
    from etcpipe.outputs import wall_clock_offset_ns
    from etcpipe.unknown import UnknownFlows

    if folder is None:
        return None
    unknown = UnknownFlows(folder, clock_offset_ns=wall_clock_offset_ns())
    tap.at_packets(unknown.keep)
    return unknown


def _follow(
    tap: "Live",
    outputs: "LiveOutputs",
    summary: "Summary",
    count: int | None,
    unknown: "UnknownFlows | None",
) -> None:
    """Pass verdicts on until the tap stops, or `count` of them were made."""
    for verdicts in tap:
        if count is not None:
            verdicts = verdicts.head(count - summary.flows)
        summary.add(verdicts)
        outputs.write(verdicts)
        if unknown:
            unknown.take(verdicts)
        if count is not None and summary.flows >= count:
            tap.stop()
            return


def _started(device: str, tap: "Live") -> str:
    return (
        f"{device}: attached, {tap.mode} ({tap.mode_reason}), {tap.loader}, "
        f"model {tap.model.name} by {tap.model.engine}"
    )


def _summary_lines(summary: "Summary", counters: dict[str, int], losses: str) -> list[str]:
    from etcpipe.outputs.summary import counter_lines

    flows = summary.lines(live=True) if summary.flows else ["no flows"]
    return ["", *flows, "", *counter_lines(counters), "", losses]


def _shadow_lines(report: dict[str, Any] | None) -> list[str]:
    from etcpipe.shadow import report_lines

    return ["", *report_lines(report)] if report else []
