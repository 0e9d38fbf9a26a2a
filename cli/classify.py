"""etcpipe classify: the flows of captures, as a table, JSON lines, CSV or Parquet."""

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli.asking import model_options, rows_options
from etcpipe.cli.common import Verb, compute_option, is_json, warn
from etcpipe.cli.tracking import tracking_options

if TYPE_CHECKING:
    from etcpipe.cli.progress import Progress
    from etcpipe.offline import Classification
    from etcpipe.outputs import Sink
    from etcpipe.outputs.summary import Summary
    from etcpipe.outputs.table import FlowTable

FLOWS_SHOWN = 40
EXIT_DEGRADED = 3
EXIT_INTERRUPTED = 130


@click.command(cls=Verb)
@click.argument("paths", metavar="PCAP...", nargs=-1, required=True, type=click.Path())
@model_options
@click.option(
    "--point",
    type=click.Path(),
    metavar="FRONT#N",
    help="A point that tune found, such as best/front.json#7: runs its model.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Write verdicts; the extension is the format: .jsonl, .csv or .parquet.",
)
@rows_options
@tracking_options
@compute_option
@click.option("--all", "show_all", is_flag=True, help=f"Show all flows, not {FLOWS_SHOWN}.")
@click.pass_context
def classify(
    ctx: click.Context,
    paths: tuple[str, ...],
    output: str | None,
    compute: str,
    show_all: bool,
    **options: Any,
) -> int:
    """Classify the flows of pcap and pcapng files; `-` reads standard input.

    \b
    Examples:
      etcpipe classify office.pcap
      etcpipe -j classify monday.pcapng tuesday.pcapng | jq .etcpipe.label
      tcpdump -U -w - | etcpipe classify - -o flows.parquet
    """
    from etcpipe import offline
    from etcpipe.cli.progress import Progress
    from etcpipe.outputs import format_of, open_output
    from etcpipe.outputs.jsonl import JsonLines
    from etcpipe.outputs.summary import Summary
    from etcpipe.outputs.table import FlowTable

    if output:
        format_of(output)  # refuse before any work is done
    progress, summary = Progress(), Summary()
    table = FlowTable(click.echo, None if show_all else FLOWS_SHOWN)
    flows = offline.classify(paths, device=compute, on_progress=progress.update, **options)
    interrupted = False
    with flows, open_output(output) if output else nullcontext() as file:
        shown: Sink = JsonLines(sys.stdout.buffer) if is_json(ctx) else table
        try:
            _write(flows, shown, file, summary, progress)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            progress.clear()
        counters = flows.counters()
    if not is_json(ctx):
        _print_summary(table, summary, counters)
    for warning in flows.warnings:
        warn(warning)
    if interrupted:
        warn("interrupted: these are the flows up to here")
        return EXIT_INTERRUPTED
    return EXIT_DEGRADED if flows.warnings else 0


def _write(
    flows: "Classification",
    shown: "Sink",
    file: "Sink | None",
    summary: "Summary",
    progress: "Progress",
) -> None:
    from etcpipe.outputs import columns_of

    for verdicts in flows:
        summary.add(verdicts)
        if file is None and getattr(shown, "is_full", False):
            continue  # nobody takes the columns: half of the time of a short flow
        columns = columns_of(verdicts)
        progress.clear()
        shown.write(columns)
        if file is not None:
            file.write(columns)


def _print_summary(table: "FlowTable", summary: "Summary", counters: dict[str, int]) -> None:
    from etcpipe.outputs.summary import counter_lines

    if summary.flows > table.flows:
        click.echo(f"... and {summary.flows - table.flows:,} more flows; --all shows them")
    blocks = [summary.lines(live=False)] if summary.flows else [["no flows"]]
    blocks.append(counter_lines(counters))
    for block in blocks:
        click.echo("\n" + "\n".join(block))
