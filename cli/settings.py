"""Options of verbs as files and the environment set them, checked before they are used.

A flag wins over the environment (ETCPIPE_ATTACH_FIRST for `attach --first`), the environment
over the section of a device, that over the section of the verb, and a later file over an
earlier one (etcpipe/config/files.py).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from etcpipe.errors import ConfigError, EtcpipeError

if TYPE_CHECKING:
    from etcpipe.config.files import Setting

# What an option takes, in words; all others take text.
KINDS = ((click.types.IntParamType, "a whole number"), (click.types.FloatParamType, "a number"))

# Where a context keeps the words that its verb was given, and what files set for it.
ARGS = "etcpipe.args"
CHOSEN = "etcpipe.chosen"

# Variables that no option stands behind.
OTHER_VARIABLES = frozenset({"ETCPIPE_DEBUG"})


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return a verb's options by the name that files and the environment use."""
    options = (param for param in command.params if isinstance(param, click.Option))
    return {long_name(option): option for option in options}


def long_name(option: click.Option) -> str:
    """Return the long form of an option without its dashes."""
    return max(option.opts, key=len).lstrip("-")


def variable(prefix: str, name: str) -> str:
    """Return the environment variable of an option."""
    return f"{prefix}_{name}".replace("-", "_").upper()


def prepare(
    command: click.Command, ctx: click.Context, args: Sequence[str], *, with_files: bool
) -> None:
    """Give a verb its variables and, as its defaults, what the files set for it.

    Raises:
        ConfigError: a file is wrong in what concerns this verb, or names no verb at all.
    """
    ctx.meta[ARGS] = tuple(args)
    options = options_of(command)
    if ctx.auto_envvar_prefix:
        for name, option in options.items():  # click's own go by the parameter, not the flag
            option.envvar = variable(ctx.auto_envvar_prefix, name)
    folder = (ctx.obj or {}).get("config")
    asks_help = {*ctx.help_option_names} & {*args}
    if not (with_files and folder) or ctx.resilient_parsing or asks_help:
        return
    from etcpipe.config import files

    settings = files.read(Path(folder))
    for setting in settings:
        _check_first_word(ctx.find_root(), setting)
    section = tuple(ctx.command_path.split()[1:])
    chosen = ctx.meta[CHOSEN] = files.for_verb(settings, section, _device(command, ctx, args))
    for setting in chosen.values():
        check_value(command, setting)
    ctx.default_map = {
        options[name].name or name: _as_option_takes_it(options[name], setting.value)
        for name, setting in chosen.items()
    }


def origin_of(ctx: click.Context, option: click.Option) -> str:
    """Return the variable, or the file and key, that set an option; "" if neither did."""
    source = ctx.get_parameter_source(option.name or "")
    name = long_name(option)
    if source is ParameterSource.ENVIRONMENT:
        return variable(ctx.auto_envvar_prefix or "", name)
    setting = ctx.meta.get(CHOSEN, {}).get(name)
    if source is ParameterSource.DEFAULT_MAP and setting:
        return f"{setting.origin}: {setting.key}"
    return ""


def origin_of_fault(ctx: click.Context, message: str) -> str:
    """Return what set the option that a verb's error is about; "" if that was the command line.

    Such a message begins with the option's name, or has the option or its value in it.
    """
    for name, option in options_of(ctx.command).items():
        value = ctx.params.get(option.name or "")
        about = message.startswith(f"{name} ") or f"--{name} " in message
        about = about or (isinstance(value, str) and f" {value}:" in f" {message}")
        if about and (origin := origin_of(ctx, option)):
            return origin
    return ""


def read_again(ctx: click.Context) -> dict[str, Any]:
    """Return what the parameters of a running verb would be if it were started now.

    Raises:
        ConfigError, click.UsageError: files or variables are wrong by now.
    """
    args = list(ctx.meta[ARGS])
    return ctx.command.make_context(ctx.info_name, args, parent=ctx.parent).params


def check(root: click.Context, settings: Iterable["Setting"]) -> Iterator[str]:
    """Yield a line for each setting that is wrong, and each variable that nobody reads."""
    for setting in settings:
        try:
            check_value(_command(root, setting), setting)
        except EtcpipeError as error:
            yield str(error)
    known = {name: option for name, _, option in variables(root)}
    for name in sorted(known.keys() & os.environ.keys()):
        try:
            from_environment(name, known[name])
        except click.ClickException as error:
            yield f"environment: {name}: {error.message.rstrip('.')}"
    for name in sorted(os.environ):
        if name.startswith("ETCPIPE_") and name not in known and name not in OTHER_VARIABLES:
            yield f"environment: no option is set by {name}{suggestion(name, known)}"


def variables(
    root: click.Context,
) -> Iterator[tuple[str, tuple[str, ...], click.Option]]:
    """Yield (environment variable, words of the verb, option) for all options that there are."""
    for words, command in verbs_of(root):
        prefix = "_".join(("ETCPIPE", *words))
        for name, option in options_of(command).items():
            yield variable(prefix, name), words, option


def from_environment(name: str, option: click.Option) -> Any:
    """Return what a variable sets its option to; None if it does not.

    Raises:
        click.BadParameter: the option does not take the value.
    """
    option.envvar = name
    ctx = click.Context(click.Command(None))
    value = option.value_from_envvar(ctx)
    return None if value is None else option.type_cast_value(ctx, value)


def verbs_of(
    ctx: click.Context, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield (words, command) of the group at ctx and all below it."""
    yield words, ctx.command
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            child = ctx.command.get_command(ctx, name)
            if child and not child.hidden:
                inner = click.Context(child, parent=ctx, info_name=name)
                yield from verbs_of(inner, (*words, name))


def check_value(command: click.Command, setting: "Setting") -> None:
    """Make sure that a verb has the option, and that the option takes the value.

    Raises:
        ConfigError: it has not, or does not; with what is like it.
    """
    options = options_of(command)
    option = options.get(setting.name)
    place = f"{setting.origin}: {setting.key}"
    if option is None:
        raise ConfigError(f"{place}: no such option{suggestion(setting.name, options)}")
    value = _as_option_takes_it(option, setting.value)
    if wanted := _wanted(option, value):
        raise ConfigError(f"{place}: wants {wanted}, not {_text(setting.value)}")
    try:
        option.process_value(click.Context(command), value)
    except click.ClickException as error:
        raise ConfigError(f"{place}: {error.message.rstrip('.')}") from error
    except EtcpipeError as error:
        raise ConfigError(f"{place}: {error}") from error


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return which of the known names was perhaps meant, as the end of a message."""
    from difflib import get_close_matches  # only a mistake needs it

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _as_option_takes_it(option: click.Option, value: Any) -> Any:
    """Return the value, as a list where the option may be repeated and one is given."""
    return [value] if option.multiple and not isinstance(value, list) else value


def _wanted(option: click.Option, value: Any) -> str:
    """Return what the option takes in words if the value is not of that kind, else ""."""
    if option.is_flag:
        return "" if isinstance(value, bool) else "true or false"
    if option.multiple or option.nargs != 1:
        return "" if isinstance(value, list) else "a list"
    for kind, words in KINDS:
        if isinstance(option.type, kind):
            numbers = int if kind is click.types.IntParamType else (int, float)
            fits = isinstance(value, numbers) and not isinstance(value, bool)
            return "" if fits else words
    return "" if isinstance(value, str) else "text"


def _text(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _check_first_word(root: click.Context, setting: "Setting") -> None:
    if not setting.section:
        raise ConfigError(
            f"{setting.origin}: {setting.name} stands in no section; write [attach] or another"
            " verb above it"
        )
    first = setting.section[0]
    known = _first_words(root)
    if first not in known:
        raise ConfigError(
            f"{setting.origin}: there is no section [{first}]{suggestion(first, known)}"
        )


def _first_words(root: click.Context) -> list[str]:
    from etcpipe.config.files import DEVICE

    assert isinstance(root.command, click.Group)
    return [*root.command.list_commands(root), DEVICE]


def _command(root: click.Context, setting: "Setting") -> click.Command:
    """Return the verb that a setting's section is about.

    Raises:
        ConfigError: there is none; with what is like it.
    """
    from etcpipe.config.files import DEVICE, DEVICE_VERB

    _check_first_word(root, setting)
    words = setting.section
    if words[0] == DEVICE and len(words) == 2:
        words = (DEVICE_VERB,)
    ctx = root
    for word in words:
        group = ctx.command
        known = group.list_commands(ctx) if isinstance(group, click.Group) else []
        child = group.get_command(ctx, word) if word in known else None  # type: ignore[attr-defined]
        if child is None:
            name = ".".join(setting.section)
            raise ConfigError(
                f"{setting.origin}: there is no section [{name}]{suggestion(word, known)}"
            )
        ctx = click.Context(child, parent=ctx, info_name=word)
    return ctx.command


def _device(command: click.Command, ctx: click.Context, args: Sequence[str]) -> str | None:
    """Return the device that the verb is about, of those that are about one."""
    arguments = [p.name for p in command.params if isinstance(p, click.Argument)]
    if "device" not in arguments:
        return None
    values, _, _ = command.make_parser(ctx).parse_args(list(args))
    device = values.get("device")
    return device if isinstance(device, str) else None
