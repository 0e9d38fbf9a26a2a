"""attach under a service manager: it tells how it does, and SIGHUP means new settings."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from etcpipe import service
from etcpipe.cli import settings
from etcpipe.cli.stopper import Stopper
from etcpipe.errors import EtcpipeError

if TYPE_CHECKING:
    from etcpipe.live.tap import Live


def is_service() -> bool:
    """Did a service manager start this process that wants to hear from it?"""
    return service.address() is not None


def ctrl_c_ends(separator: str) -> str:
    """Return the hint for whoever sits at a terminal, behind a separator; nothing in a service.

    Source: systemd.exec(5): every unit has INVOCATION_ID. The shells of a desktop inherit it, but
    they have a terminal.
    """
    in_unit = is_service() or "INVOCATION_ID" in os.environ
    return "" if in_unit and not sys.stderr.isatty() else f"{separator}Ctrl-C ends"


def default_output(device: str) -> tuple[str, ...]:
    """Return where a service's verdicts go if nothing says otherwise: a file of LogsDirectory=."""
    folder = os.environ.get("LOGS_DIRECTORY", "").split(":")[0]
    return (f"{folder}/{device}.jsonl",) if folder and is_service() else ()


@contextmanager
def serving(
    ctx: click.Context, tap: "Live", stopper: Stopper, status: str, reopen: Callable[[], object]
) -> Iterator[None]:
    """Tell the service manager how the tap does while the block runs; without one, do nothing.

    SIGHUP then no longer ends attach: settings are read anew, and files opened anew.

    Args:
        status: a line on what runs.
        reopen: closes and opens the files that are written.
    """
    notifier = service.notifier()
    if notifier is None:
        yield
        return
    reload = Reload(ctx, tap)

    def check() -> None:
        notifier.alive()
        if reload.take():
            notifier.reloading()
            reopen()
            click.echo(f"{tap.device}: {reload.run()}", err=True)
            notifier.ready(status)

    with notifier:
        tap.at_checks(check)
        stopper.hangs_up(reload.ask)
        notifier.ready(status)
        try:
            yield
        finally:
            notifier.stopping()


class Reload:
    """Reads the settings of a running attach again and does what can be done without an end."""

    def __init__(self, ctx: click.Context, tap: "Live"):
        self._ctx = ctx
        self._tap = tap
        self._asked = False
        self._now = dict(ctx.params)

    def ask(self) -> None:
        """Remember that somebody wants it; safe in a signal handler."""
        self._asked = True

    def take(self) -> bool:
        """Did somebody ask since the last call?"""
        asked, self._asked = self._asked, False
        return asked

    def run(self) -> str:
        """Take the settings as they are now and return a line on what that came to."""
        try:
            wanted = settings.read_again(self._ctx)
            done = self._apply(wanted)
        except (EtcpipeError, click.ClickException) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else error
            return f"not reloaded, all goes on as before: {message}"
        later = [
            name
            for name, option in settings.options_of(self._ctx.command).items()
            if wanted.get(option.name or name) != self._now.get(option.name or name)
        ]
        text = f"reloaded: {', '.join(done) or 'nothing has changed'}"
        return f"{text}; only a restart changes: {', '.join(later)}" if later else text

    def _apply(self, wanted: dict[str, Any]) -> list[str]:
        """Do what can be done now and return its names; what was done counts as what is."""
        from etcpipe.kernel import filters
        from etcpipe.policy import rules as policies

        # All faults come first: what is taken is taken whole.
        rules = policies.load(wanted["policy"]) if wanted["policy"] else None
        if wanted["filter"] is not None:
            filters.compile_filter(wanted["filter"])
        done = []
        if self._now["policy"]:  # else nothing in the kernel acts, and only a restart changes that
            self._tap.set_policy(rules)
            self._now["policy"] = wanted["policy"]
            done.append("policy")
        if wanted["filter"] != self._now["filter"]:
            self._tap.set_filter(wanted["filter"])
            self._now["filter"] = wanted["filter"]
            done.append("filter")
        return done
