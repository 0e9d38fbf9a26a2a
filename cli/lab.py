"""etcpipe lab: labelled live traffic of real programs, in network namespaces."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from etcpipe.cli.common import Group, Name, Verb, is_json, print_json

if TYPE_CHECKING:
    from etcpipe.lab import Session


def _known_kinds() -> Iterable[str]:
    from etcpipe.lab import KINDS

    return KINDS


KIND = click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=Name("kind", _known_kinds),
    metavar="KIND",
    help="Only this kind of `etcpipe lab list`; may be repeated.",
)
SESSIONS = click.option(
    "--sessions", type=click.IntRange(1), default=3, metavar="N", help="Sessions of each kind."
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    help="Seed of everything that varies; each seed is like another day.",
)
SPEED = click.option(
    "--speed", type=click.FloatRange(0.1, 100), default=1.0, help="Divide the pauses by this."
)
RATE = click.option(
    "--rate",
    "rate_mbit",
    type=click.FloatRange(0),
    metavar="MBIT",
    help="Rate of the links; 0: no limit; default: by the seed.",
)


@click.group(cls=Group)
def lab() -> None:
    """Make labelled traffic of real programs.

    A client and its servers run in network namespaces, with a router between them. The address
    and port of a server give the label of its flows.
    """


@lab.command("list", cls=Verb)
@click.pass_context
def list_kinds(ctx: click.Context) -> None:
    """List the kinds of traffic, and what each lacks here.

    \b
    Example:
      etcpipe lab list
    """
    from etcpipe.lab import KINDS, missing

    if is_json(ctx):
        rows = [
            {
                "kind": kind.name,
                "transport": kind.transport,
                "summary": kind.summary,
                "missing": missing(kind),
            }
            for kind in KINDS.values()
        ]
        print_json(ctx, rows)
        return
    for kind in KINDS.values():
        absent = ", ".join(missing(kind))
        note = f"; missing here: {absent}" if absent else ""
        click.echo(f"{kind.name:<16}{kind.transport:<10}{kind.summary}{note}")


@lab.command(cls=Verb)
@KIND
@SESSIONS
@SEED
@SPEED
@RATE
@click.pass_context
def run(
    ctx: click.Context,
    kinds: tuple[str, ...],
    sessions: int,
    seed: int,
    speed: float,
    rate_mbit: float | None,
) -> None:
    """Run sessions; attach to the router's device to watch them.

    With -j it prints one JSON object with the lab's namespaces and every session.

    \b
    Example:
      etcpipe lab run --sessions 2 --kind ssh_shell
    """
    from etcpipe.lab import Lab

    with Lab(kinds or None, seed=seed, rate_mbit=rate_mbit) as running:
        place = f"device {running.device} in namespace {running.router}"
        if not is_json(ctx):
            click.echo(f"{len(running.kinds)} kinds x {sessions}; {place}", err=True)
        done = []
        for session in running.run(sessions, speed):
            done.append(session)
            _say(ctx, session)
        if is_json(ctx):
            where = {"router": running.router, "device": running.device, "seed": seed}
            print_json(ctx, {**where, "sessions": [vars(session) for session in done]})
        else:
            click.echo(_table(done))
    _exit_code(ctx, done)


@lab.command(cls=Verb)
@click.argument("path", type=click.Path(dir_okay=False))
@KIND
@SESSIONS
@SEED
@SPEED
@RATE
@click.option(
    "--first", type=click.IntRange(0), default=32, help="Packets of each flow to keep; 0: all."
)
@click.option(
    "--snaplen", type=click.IntRange(64, 65535), default=1600, help="Bytes of each packet to keep."
)
@click.pass_context
def record(ctx: click.Context, path: str, kinds: tuple[str, ...], **options) -> None:
    """Record sessions to the capture PATH, with their labels in labels.csv beside it.

    \b
    Examples:
      etcpipe lab record day-1.pcap
      etcpipe lab record day-2.pcap --seed 2 --kind openvpn --kind wireguard
    """
    from etcpipe.lab import record as record_lab

    summary = record_lab(
        path, kinds or None, on_session=lambda session: _say(ctx, session), **options
    )
    if is_json(ctx):
        failed = [vars(session) for session in summary.sessions if not session.ok]
        print_json(ctx, {**vars(summary), "path": str(summary.path), "sessions": failed})
    else:
        click.echo(_table(summary.sessions))
        click.echo(
            f"{summary.path}: {summary.packets:,} packets of {summary.seen:,} seen, "
            f"{summary.flows:,} flows; {summary.dropped:,} packets lost by the capture"
        )
    _exit_code(ctx, summary.sessions)


def _say(ctx: click.Context, session: "Session") -> None:
    if not is_json(ctx):
        click.echo(
            f"{session.label:<16}{session.seconds:6.1f} s  {session.error or 'ok'}", err=True
        )


def _table(sessions: list["Session"]) -> str:
    lines = [f"{'kind':<16}{'sessions':>9}{'failed':>8}{'median':>10}"]
    for label in sorted({session.label for session in sessions}):
        own = [session for session in sessions if session.label == label]
        median_s = sorted(session.seconds for session in own)[len(own) // 2]
        failed = sum(not session.ok for session in own)
        lines.append(f"{label:<16}{len(own):>9}{failed:>8}{median_s:>8.1f} s")
    return "\n".join(lines)


def _exit_code(ctx: click.Context, sessions: list["Session"]) -> None:
    """Exit 1 where every session failed, 3 where some did."""
    failed = sum(not session.ok for session in sessions)
    if failed:
        ctx.exit(1 if failed == len(sessions) else 3)
