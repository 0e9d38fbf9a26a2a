"""etcpipe demo: see it work, with real programs and no risk."""

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from etcpipe.demo import Report


@click.command(short_help="Classify real programs' traffic live, in namespaces made for it.")
@click.option("--sessions", type=click.IntRange(1, 100), default=3, help="Runs of each kind.")
@click.option("--seed", type=int, default=1, help="Makes sizes, pauses and counts repeatable.")
@click.option("--kind", "kinds", multiple=True, help="Only these kinds; see `etcpipe lab list`.")
@click.option("-m", "--model", type=click.Path(), help="Model file; default: the one that ships.")
@click.pass_context
def demo(
    ctx: click.Context, sessions: int, seed: int, kinds: tuple[str, ...], model: str | None
) -> None:
    """Run the lab with a tap on its router, show verdicts live, and count right and wrong.

    \b
    Examples:
      etcpipe demo
      etcpipe demo --sessions 1 --kind ssh_shell --kind https_bulk
    """
    from etcpipe import demo as demos
    from etcpipe.cli.common import is_json
    from etcpipe.outputs.table import LiveTable

    as_json = is_json(ctx)
    table = LiveTable(click.echo)

    def say_start(tap, lab) -> None:
        if not as_json:
            click.echo(
                f"{len(lab.kinds)} kinds of traffic x {sessions} through {lab.router}; tap on "
                f"{lab.device}: {tap.mode} ({tap.mode_reason}), {tap.loader}, model {tap.model.name}"
            )

    report = demos.run(
        sessions=sessions,
        seed=seed,
        kinds=kinds or None,
        model=model,
        on_start=say_start,
        on_verdicts=lambda verdicts: None if as_json else table.write(verdicts),
    )
    click.echo(json.dumps(_as_dict(report)) if as_json else _as_text(report))


def _as_dict(report: "Report") -> dict:
    return {
        "classes": {
            label: {
                "flows": score.flows,
                "right": score.right,
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


def _as_text(report: "Report") -> str:
    lines = ["", f"{'class':<18}{'flows':>7}{'right':>7}{'wrong':>7}{'unknown':>9}{'median':>12}"]
    for label, score in report.scores.items():
        lines.append(
            f"{label:<18}{score.flows:>7}{score.right:>7}{score.wrong:>7}{score.unknown:>9}"
            f"{score.median_ms:>9.1f} ms"
        )
    scores = report.scores.values()
    flows, right = sum(s.flows for s in scores), sum(s.right for s in scores)
    share = f"{100 * right / flows:.1f} % right" if flows else "no flows"
    lines += [
        f"{'all':<18}{flows:>7}{right:>7}{sum(s.wrong for s in scores):>7}"
        f"{sum(s.unknown for s in scores):>9}   {share}",
        "",
        f"packets: {report.counters['PACKETS_SEEN']:,} seen, "
        f"{report.counters['PACKETS_FIRST_N']:,} among the first of their flow, "
        f"{report.counters['PACKETS_REDIRECTED']:,} mirrored; lost: "
        + (", ".join(f"{name} {n:,}" for name, n in report.lost.items()) or "none"),
    ]
    lines += [f"failed: {s.label}: {s.error}" for s in report.sessions if not s.ok]
    return "\n".join(lines)
