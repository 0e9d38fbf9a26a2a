"""A progress bar on standard error, where that is a terminal."""

import sys
import time

import click

BAR_WIDTH = 30


class Progress:
    """Redraws one line; shows nothing where standard error is not a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = False

    def update(self, done: int, total: int | None) -> None:
        """Draw how many bytes of all were read; the total of a pipe is not known."""
        if self._is_shown:
            click.echo(f"\r\x1b[K{self._text(done, total)}", err=True, nl=False)
            self._drawn = True

    def clear(self) -> None:
        """Take the line away, so that other text can be printed in its place."""
        if self._drawn:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._drawn = False

    def _text(self, done: int, total: int | None) -> str:
        read = f"{done / 1e6:,.1f} MB"
        if not total:
            return read
        share = min(done / total, 1.0)
        bar = "#" * int(share * BAR_WIDTH)
        left = (time.monotonic() - self._started) * (1 - share) / share if share else 0.0
        return (
            f"[{bar:<{BAR_WIDTH}}] {100 * share:3.0f} % of {total / 1e6:,.1f} MB, {left:.0f} s left"
        )


class Steps:
    """A context that shows what is being done, and nothing where there is no terminal."""

    def __enter__(self) -> "Steps":
        self._is_shown = sys.stderr.isatty()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_shown:
            click.echo("\r\x1b[K", err=True, nl=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Draw a bar of steps done and of steps in all."""
        if self._is_shown:
            bar = "#" * (BAR_WIDTH * done // max(total, 1))
            click.echo(f"\r\x1b[K[{bar:<{BAR_WIDTH}}] {what}", err=True, nl=False)
