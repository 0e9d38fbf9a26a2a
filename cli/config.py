"""etcpipe config: what the configuration files set, and whether they are right."""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from etcpipe.cli import settings as options
from etcpipe.cli.common import Device, Group, Verb, is_json, option, print_json
from etcpipe.config import files
from etcpipe.config.files import Setting
from etcpipe.errors import ConfigError


@click.group(cls=Group)
def config() -> None:
    """Check and show the configuration: /etc/etcpipe/etcpipe.toml, then conf.d/*.toml.

    A section is a verb, or a device ([device.eth0]: options of attach). A key is a long option
    without its dashes. Each option also has an environment variable: ETCPIPE_ATTACH_FIRST=20.
    An option on the command line wins over the variable, the variable over the files, and a
    later file over an earlier one.
    """


@config.command(cls=Verb, configured=False)
@click.pass_context
def check(ctx: click.Context) -> int:
    """Check all files and variables; exit status 2 if something is wrong.

    \b
    Example:
      etcpipe config check && systemctl reload etcpipe@eth0
    """
    folder = _folder(ctx)
    found = files.read(folder)
    faults = list(options.check(ctx.find_root(), found))
    if is_json(ctx):
        print_json(ctx, faults)
    else:
        for fault in faults:
            click.echo(f"etcpipe: {fault}", err=True)
        if not faults:
            click.echo(f"{folder}: {len(files.files_of(folder))} files, {len(found)} settings, ok")
    return ConfigError.exit_code if faults else 0


@config.command(cls=Verb, configured=False)
@click.argument("device", required=False, type=Device())
@click.option("--origin", is_flag=True, help="Say where each setting comes from.")
@click.pass_context
def show(ctx: click.Context, device: str | None, origin: bool) -> None:
    """Show what is set, or all settings of `attach DEVICE`, as TOML.

    \b
    Examples:
      etcpipe config show
      etcpipe config show eth0 --origin
    """
    root = ctx.find_root()
    found = files.read(_folder(ctx))
    for fault in options.check(root, found):
        raise ConfigError(fault)
    shown = _for_device(root, found, device) if device else _all(root, found)
    if is_json(ctx):
        print_json(ctx, [_as_object(setting) for setting in shown])
    else:
        click.echo("\n".join(_as_toml(shown, origin)) if shown else "nothing is set")


def _folder(ctx: click.Context) -> Path:
    return Path(option(ctx, "config") or files.FOLDER)


def _all(root: click.Context, found: Iterable[Setting]) -> list[Setting]:
    """Return what is set anywhere, each key once as it holds, by section."""
    last = {(setting.section, setting.name): setting for setting in found}
    last |= {(setting.section, setting.name): setting for setting in _environment(root)}
    return sorted(last.values(), key=lambda setting: setting.section)


def _for_device(root: click.Context, found: list[Setting], device: str) -> list[Setting]:
    """Return the options of attach as they hold for a device, but those without a value."""
    section = (files.DEVICE_VERB,)
    command = root.command.get_command(root, files.DEVICE_VERB)  # type: ignore[attr-defined]
    chosen = {
        name: Setting(section, name, value, "default")
        for name, one in options.options_of(command).items()
        if (value := one.get_default(click.Context(command))) not in (None, ())
        and isinstance(value, (str, int, float, bool, list, tuple))
    }
    chosen |= files.for_verb(found, section, device)
    chosen |= {one.name: one for one in _environment(root) if one.section == section}
    return [
        Setting(section, name, setting.value, setting.origin)
        for name, setting in sorted(chosen.items())
    ]


def _environment(root: click.Context) -> list[Setting]:
    return [
        Setting(words, options.long_name(one), value, name)
        for name, words, one in options.variables(root)
        if words and (value := options.from_environment(name, one)) is not None
    ]


def _as_object(setting: Setting) -> dict[str, Any]:
    return {
        "section": ".".join(setting.section),
        "name": setting.name,
        "value": setting.value,
        "origin": setting.origin,
    }


def _as_toml(settings: list[Setting], origin: bool) -> list[str]:
    lines: list[str] = []
    for section, group in groupby(settings, key=lambda setting: setting.section):
        lines += ["", f"[{'.'.join(map(_key, section))}]"]
        for setting in group:
            line = f"{_key(setting.name)} = {_value(setting.value)}"
            lines.append(f"{line:<32}  # {setting.origin}" if origin else line)
    return lines[1:]


def _key(word: str) -> str:
    bare = word.replace("-", "").replace("_", "").isalnum() and word.isascii()
    return word if bare else json.dumps(word)


def _value(value: Any) -> str:
    # a basic string of TOML is one of JSON; what differs is inside tables only
    return json.dumps(value, ensure_ascii=False, default=str)
