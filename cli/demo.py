"""etcpipe demo: see it work, with real programs and no risk."""

from typing import TYPE_CHECKING

import click

from etcpipe.cli.asking import MODEL_HELP
from etcpipe.cli.common import ModelFile, Verb, is_json, print_json
from etcpipe.cli.lab import KIND

if TYPE_CHECKING:
    from etcpipe.demo import Report
    from etcpipe.lab import Lab
    from etcpipe.live.tap import Live


@click.command(cls=Verb)
@click.option("--sessions", type=click.IntRange(1, 100), default=3, help="Sessions of each kind.")
@click.option("--seed", type=int, default=1, help="Makes sizes, pauses and counts repeatable.")
@KIND
@click.option("-m", "--model", type=ModelFile(), metavar="MODEL", help=MODEL_HELP)
@click.pass_context
def demo(
    ctx: click.Context, sessions: int, seed: int, kinds: tuple[str, ...], model: str | None
) -> None:
    """Classify traffic of real programs live, and count which verdicts are right.

    \b
    Examples:
      etcpipe demo
      etcpipe demo --sessions 1 --kind ssh_shell --kind https_bulk
    """
    from etcpipe import demo as demos
    from etcpipe.outputs.table import LiveTable

    table = LiveTable(click.echo)

    def say_start(tap: "Live", lab: "Lab") -> None:
        click.echo(
            f"{len(lab.kinds)} kinds of traffic x {sessions} through {lab.router}; tap on "
            f"{lab.device}: {tap.mode} ({tap.mode_reason}), {tap.loader}, model {tap.model.name}",
            err=True,
        )

    report = demos.run(
        sessions=sessions,
        seed=seed,
        kinds=kinds or None,
        model=model,
        on_start=say_start,
        on_verdicts=lambda verdicts: None if is_json(ctx) else table.write(verdicts),
    )
    if is_json(ctx):
        print_json(ctx, _as_dict(report))
    else:
        click.echo("\n".join(_lines(report)))


def _as_dict(report: "Report") -> dict:
    return {
        "classes": {
            label: {
                "flows": score.flows,
                "right": score.right,
                "family": score.family,
                "wrong": score.wrong,
                "unknown": score.unknown,
                "median_ms": round(score.median_ms, 3),
            }
            for label, score in report.scores.items()
        },
        "counters": report.counters,
        "lost": report.lost,
        "mode": report.mode,
        "loader": report.loader,
        "failed_sessions": [f"{s.label}: {s.error}" for s in report.sessions if not s.ok],
    }


def _lines(report: "Report") -> list[str]:
    from etcpipe.outputs.summary import loss_line
    from etcpipe.outputs.table import Table, milliseconds

    counts = ("flows", "right", "family", "wrong", "unknown")
    table = Table(["class", *(f">{name}" for name in counts), ">median time to verdict"])
    scores = {**report.scores, "all": report.total}
    rows = [
        [label, *(str(getattr(s, name)) for name in counts), milliseconds(s.median_ms * 1000)]
        for label, s in scores.items()
    ]
    total = report.total
    share = f"{100 * total.right / total.flows:.1f} % right" if total.flows else "no flows"
    failed = [f"failed: {s.label}: {s.error}" for s in report.sessions if not s.ok]
    packets = loss_line(report.counters, report.lost)
    return ["", *table.lines(rows), "", share, packets, *failed]
