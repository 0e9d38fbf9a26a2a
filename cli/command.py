"""The etcpipe command: its verbs, its common options, and what its errors look like."""

import errno
import os
import sys
from collections.abc import Sequence
from signal import SIGINT

import click

from etcpipe import __version__, runtime
from etcpipe.cli import settings
from etcpipe.cli.common import LazyGroup, Namespace
from etcpipe.config import FOLDER
from etcpipe.errors import EtcpipeError, PermissionDeniedError

# 0 done, 1 failed, 2 wrong usage, 3 done but degraded, 4 not permitted, 5 not supported
# here; the classes of errors carry theirs.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + SIGINT

VERBS = {
    "classify": ("etcpipe.cli.classify", "Classify the flows of captures."),
    "attach": ("etcpipe.cli.attach", "Classify a device's traffic, live."),
    "show": ("etcpipe.cli.show", "Show where etcpipe is attached."),
    "filter": ("etcpipe.cli.filter", "Change which packets a tap looks at."),
    "monitor": ("etcpipe.cli.monitor", "Watch attached devices in the terminal."),
    "web": ("etcpipe.cli.web", "Serve a read-only page of the same in a browser."),
    "detach": ("etcpipe.cli.show", "Remove etcpipe from a device."),
    "demo": ("etcpipe.cli.demo", "Classify real programs in namespaces of its own."),
    "policy": ("etcpipe.cli.policy", "Check, apply and undo what verdicts do to traffic."),
    "lab": ("etcpipe.cli.lab", "Make labelled traffic of real programs."),
    "dataset": ("etcpipe.cli.dataset", "Build datasets from labelled captures, and check them."),
    "train": ("etcpipe.cli.train", "Train a model from labelled captures."),
    "tune": ("etcpipe.cli.tune", "Search features, depth and model by measured cost."),
    "eval": ("etcpipe.cli.evaluation", "Score a model on labelled captures."),
    "drift": ("etcpipe.cli.drift", "Say which classes no longer look as in training."),
    "model": ("etcpipe.cli.model", "List, show or measure models, or put one in service."),
    "cascade": ("etcpipe.cli.cascade", "Fit models in stages that answer early."),
    "serve-bench": ("etcpipe.cli.serve_bench", "Replay flows through a cascade, under load."),
    "bench": ("etcpipe.cli.bench", "Measure etcpipe beside its peers on this machine."),
    "config": ("etcpipe.cli.config", "Check and show the configuration files."),
    "doctor": ("etcpipe.cli.doctor", "Check what works here, and how to fix the rest."),
    "completion": ("etcpipe.cli.completion", "Print a shell's completion script."),
}


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    context_settings={
        "auto_envvar_prefix": "ETCPIPE",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
    options_metavar="[-j] [-p] [-s] [-n NETNS]",
)
@click.option("-j", "--json", is_flag=True, help="JSON on standard output.")
@click.option("-p", "--pretty", is_flag=True, help="Indent JSON output that is one object.")
@click.option("-s", "--stats", is_flag=True, help="Show all counters.")
@click.option(
    "-n",
    "--netns",
    type=Namespace(),
    metavar="NAME",
    help="Network namespace of the device, as in `ip -n`.",
)
@click.option(
    "--config",
    type=click.Path(),
    metavar="FOLDER",
    default=str(FOLDER),
    help="Folder of the configuration: etcpipe.toml and conf.d/*.toml.",
)
@click.version_option(__version__, "-V", "--version", message="etcpipe %(version)s")
@click.pass_context
def cli(
    ctx: click.Context, json: bool, pretty: bool, stats: bool, netns: str | None, config: str
) -> None:
    """Classify encrypted network traffic, live or from captures.

    Verbs may be shortened. `etcpipe help VERB` explains one.

    \b
    Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but degraded,
    4 not permitted, 5 not supported here.
    """
    ctx.obj = {
        "json": json,
        "pretty": pretty,
        "stats": stats,
        "netns": netns,
        "config": config,
    }


@cli.command("help", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def help_verb(words: tuple[str, ...]) -> int:
    """Show the help of a verb."""
    return run([*words, "--help"])


def run(args: Sequence[str]) -> int:
    """Run the command and return its exit status; every error ends here, as one line."""
    try:
        status = cli.main(args=list(args), prog_name="etcpipe", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BaseException as error:
        if os.environ.get("ETCPIPE_DEBUG") == "1":
            from traceback import print_exc  # as heavy as all else of a short verb

            print_exc()
        status, message = explain(error)
        _give_up_stdout()
        if message:
            click.echo(f"etcpipe: {message}", err=True)
        return status


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the line that an error is worth; "" says nothing."""
    if isinstance(error, EtcpipeError):
        return error.exit_code, _one_line(str(error))
    if isinstance(error, click.BadParameter) and (origin := _origin_of_value(error)):
        # click 8.2 lists what a boolean may be, and begins with nothing at all
        said = _one_line(error.message).partition(" Recognized values:")[0]
        return EXIT_USAGE, f"{origin}: {said.rstrip('.')}"
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "etcpipe"
        said = _one_line(error.format_message()).rstrip(".")
        if isinstance(error, click.NoSuchOption) and error.option_name in _common_options():
            said = f"{error.option_name} goes before the verb"
        return EXIT_USAGE, f"{said} (see {path} --help)"
    if isinstance(error, click.ClickException):
        return EXIT_FAILED, _one_line(error.format_message())
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else EXIT_FAILED), ""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, ImportError) and isinstance(_origin(error), KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"  # an extension module turned it into its own
    if isinstance(error, PermissionError):
        return PermissionDeniedError.exit_code, _explain_os(error)
    if isinstance(error, OSError):
        return EXIT_FAILED, _explain_os(error)
    if isinstance(error, ModuleNotFoundError):
        remedy = runtime.remedy(error.name or "")
        return EXIT_FAILED, f"needs the Python package {error.name}: {remedy}"
    if isinstance(error, MemoryError):
        return EXIT_FAILED, "out of memory"
    kind = type(error).__name__
    return EXIT_FAILED, f"bug: {kind}: {_one_line(str(error))} (ETCPIPE_DEBUG=1 shows where)"


def _common_options() -> set[str]:
    return {name for param in cli.params for name in param.opts}


def _origin_of_value(error: click.BadParameter) -> str:
    """Return the variable or file that a wrong value came from; "" from the command line."""
    if error.ctx and isinstance(error.param, click.Option):
        return settings.origin_of(error.ctx, error.param)
    return ""


def _explain_os(error: OSError) -> str:
    if error.errno == errno.EPIPE:
        return ""  # the reader of a pipe has gone, as with `| head`: not worth a word
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else _one_line(reason)


def _give_up_stdout() -> None:
    """Write what is buffered; if that fails, make sure that it does not again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _origin(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error


def _one_line(text: str) -> str:
    return " ".join(text.split())
