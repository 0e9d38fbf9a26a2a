"""What all verbs share: lazy loading, prefixes, `help` as a word, JSON or text."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from gettext import gettext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli import settings
from etcpipe.errors import EtcpipeError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NETWORK_DEVICES = Path("/sys/class/net")
NETWORK_NAMESPACES = Path("/run/netns")  # of those that `ip netns` made


# What an option of a plain type is called in help, in place of INTEGER RANGE and the like.
METAVARS = {"integer range": "N", "integer": "N", "float range": "X", "float": "X"}


class Verb(click.Command):
    """A command that takes -j after its name too, and `help` as its only word.

    Its help calls numbers N or X.

    Args:
        configured: its options have defaults in configuration files (cli/settings.py). Not so
            where a fault in those must not be in the way.
    """

    def __init__(self, *args: Any, configured: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._configured = configured
        for param in self.params:
            if isinstance(param, click.Option):
                param.metavar = param.metavar or METAVARS.get(param.type.name)
        self.params.append(
            click.Option(
                ["-j", "--json"],
                is_flag=True,
                expose_value=False,
                callback=_remember_json,
                help="JSON on standard output.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = ["--help"] if args == ["help"] else args
        settings.prepare(self, ctx, args, with_files=self._configured)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EtcpipeError as error:
            if origin := settings.origin_of_fault(ctx, str(error)):
                error.args = (f"{error} (set by {origin})",)
            raise


def _remember_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(dict)["json"] = True


class Group(click.Group):
    """A group whose verbs may be shortened, with `help` as a word of its own."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs | {"subcommand_metavar": "VERB ..."})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ask = args == ["help"] or not (args or ctx.resilient_parsing)
        return super().parse_args(ctx, ["--help"] if ask else args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take an unambiguous prefix for the verb, as ip does."""
        verbs = self.list_commands(ctx)
        matches = [verb for verb in verbs if verb.startswith(args[0])]
        if args[0] not in verbs and args[0] not in self.commands and matches:
            if len(matches) > 1:
                ctx.fail(f"{args[0]!r} may be {' or '.join(matches)}")
            args = [*matches, *args[1:]]
        elif args[0] not in (*verbs, *self.commands) and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{settings.suggestion(args[0], verbs)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(gettext("Verbs")):
            formatter.write_dl(
                [(verb, self.summary(ctx, verb)) for verb in self.list_commands(ctx)]
            )

    def summary(self, ctx: click.Context, verb: str) -> str:
        """Return what a verb does, in one sentence: the first of its help."""
        command = self.get_command(ctx, verb)
        paragraph = " ".join(((command and command.help) or "").partition("\n\n")[0].split())
        return f"{paragraph.partition('. ')[0].rstrip('.')}."


class LazyGroup(Group):
    """A group that imports a verb's module when the verb is used.

    Args:
        verbs: (module, one line of help) by verb, in the order of the help page; the
            module's attribute of the verb's name (with _ for -) is the command.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, tuple[str, str]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self._verbs:
            return getattr(import_module(self._verbs[name][0]), name.replace("-", "_"))
        return super().get_command(ctx, name)

    def summary(self, ctx: click.Context, verb: str) -> str:
        return self._verbs[verb][1]  # from the table: nothing is imported

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Complete verbs from the table, so that a press of the tab key imports nothing."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(verb, help=text)
            for verb, (_, text) in self._verbs.items()
            if verb.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


class Name(click.ParamType):
    """A name of something; the tab key offers those that there are.

    Args:
        name: what it is the name of.
        known: returns the names, when the tab key is pressed.
        or_file: a file may be named instead.
    """

    def __init__(self, name: str, known: Callable[[], Iterable[str]], *, or_file: bool = False):
        self.name = name
        self._known = known
        self._or_file = or_file

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list["CompletionItem"]:
        from click.shell_completion import CompletionItem

        names = sorted(name for name in self._known() if name.startswith(incomplete))
        files = [CompletionItem(incomplete, type="file")] if self._or_file else []
        return [CompletionItem(name) for name in names] + files


class Device(Name):
    """The name of a network interface."""

    def __init__(self) -> None:
        super().__init__("device", partial(_entries, NETWORK_DEVICES))


class ModelFile(Name):
    """A model's file, or the name of one that ships."""

    def __init__(self) -> None:
        super().__init__("model", _shipped_models, or_file=True)


def _entries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _shipped_models() -> list[str]:
    from etcpipe.model import list_shipped

    return [path.stem for path in list_shipped()]


class Namespace(Name):
    """The name or path of a network namespace."""

    def __init__(self) -> None:
        super().__init__("namespace", partial(_entries, NETWORK_NAMESPACES), or_file=True)


def defaulted(name: str, kind: click.ParamType, default: Any, text: str) -> Callable:
    """Return click.option() of a kind with a default."""
    return click.option(name, type=kind, default=default, help=text)


def output_option(kind: str, text: str) -> Callable:
    """Return the option -o of a verb that writes one file or folder; its value is a Path."""
    return click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path),
        metavar=kind,
        help=text,
    )


def compute_option(verb: Callable) -> Callable:
    """Add --device, where rows are made and the model runs; its value comes as `compute`."""
    return click.option(
        "--device",
        "compute",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        help="Where flows are regrouped and the model runs; auto: the GPU if there is one "
        "and the model is a network.",
    )(verb)


def check_suffix(path: Path, suffix: str, what: str) -> None:
    """Refuse, before any work is done, to write a file that its name would belie.

    Raises:
        UsageError: the path ends otherwise.
    """
    if path.suffix != suffix:
        raise UsageError(f"{path}: {what} ends in {suffix}")


def is_json(ctx: click.Context) -> bool:
    """Is JSON asked for, before or after the verb?"""
    return bool((ctx.obj or {}).get("json"))


def option(ctx: click.Context, name: str) -> Any:
    """Return an option given before the verb: json, pretty, stats or netns."""
    return (ctx.obj or {}).get(name)


def print_json(ctx: click.Context, value: Any) -> None:
    """Print a value as JSON, indented with -p."""
    click.echo(json.dumps(value, indent=4 if option(ctx, "pretty") else None))


def warn(message: str) -> None:
    """Say on standard error what is not as it should be."""
    click.echo(f"etcpipe: warning: {message}", err=True)
