"""etcpipe model: what models there are, and what one says of itself."""

import click

from etcpipe.cli.common import Group, Verb, is_json, print_json


@click.group(cls=Group, short_help="List models, or show what one is.")
def model() -> None:
    """Models: those that ship, and what a model file holds."""


@model.command("list", cls=Verb)
@click.pass_context
def list_models(ctx: click.Context) -> None:
    """List the models that come with etcpipe."""
    from etcpipe import model as models

    loaded = [models.load(path) for path in models.list_shipped()]
    if is_json(ctx):
        print_json(ctx, [_summary(one) for one in loaded])
        return
    for one in loaded:
        click.echo(
            f"{one!s:<24} {len(one.classes):>3} classes, view {one.view.name}, first "
            f"{one.first_n} packets, macro-F1 {_macro_f1(one)}"
        )


@model.command("show", cls=Verb)
@click.argument("file", required=False, metavar="[FILE]")
@click.pass_context
def show_model(ctx: click.Context, file: str | None) -> None:
    """Show what a model FILE is: classes, input, scores. Without FILE, the default model."""
    from dataclasses import asdict

    from etcpipe import model as models

    loaded = models.load(file)
    if is_json(ctx):
        print_json(ctx, asdict(loaded.description) | {"digest": loaded.digest})
        return
    click.echo(_as_text(loaded))


def _summary(loaded) -> dict:
    scores = loaded.description.scores
    return {
        "name": loaded.name,
        "digest": loaded.digest,
        "classes": list(loaded.classes),
        "view": loaded.view.name,
        "first_n": loaded.first_n,
        "mask": loaded.mask,
        "macro_f1": scores.get("macro_f1"),
    }


def _macro_f1(loaded) -> str:
    value = loaded.description.scores.get("macro_f1")
    return "not measured" if value is None else f"{value:.3f}"


def _as_text(loaded) -> str:
    from etcpipe.cli.train import as_text

    one = loaded.description
    pairs = {
        "model": f"{loaded} (made {one.created or 'at an unknown time'} by etcpipe {one.version})",
        "classes": ", ".join(one.classes),
        "input": f"view {one.view}, {len(one.columns) or loaded.view.shape} columns, "
        f"schema {one.schema_hash}",
        "packets": f"the first {one.first_n} that count ({one.count}), "
        f"or those that came when nothing did for {one.wait_s:g} s",
        "mask": one.mask,
        "calibration": f"temperature {one.temperature:.3f}, unknown below {one.threshold:.3f}",
        "data": one.data or "not stated",
    }
    lines = [f"{name:<12} {text}" for name, text in pairs.items()]
    if "confusion" in one.scores:
        lines += ["", as_text(one.scores)]
    return "\n".join(lines)
