"""etcpipe policy: look at a policy before it acts."""

from itertools import compress
from typing import TYPE_CHECKING

import click

from etcpipe.cli.common import Group, Verb, is_json, print_json, warn

if TYPE_CHECKING:
    import numpy as np


@click.group(cls=Group)
def policy() -> None:
    """Look at a policy: which verdicts do what to their flows."""


@policy.command(cls=Verb)
@click.argument("file", type=click.Path())
@click.option("-m", "--model", type=click.Path(), help="Model file; default: the one that ships.")
@click.pass_context
def check(ctx: click.Context, file: str, model: str | None) -> None:
    """Check FILE against a model's classes, and show what its rules come to.

    \b
    Example:
      etcpipe policy check policy.toml
    """
    from etcpipe import model as models
    from etcpipe import policy as policies
    from etcpipe import policy_action
    from etcpipe.verdict import UNKNOWN

    rules = policies.load(file)
    classes = (*models.load(model).classes, UNKNOWN)
    decider = rules.decider(classes[:-1])
    rows = [
        {
            "rule": number,
            # a model may have learned "unknown": one word with what it does not know
            "classes": list(dict.fromkeys(compress(classes, hits))),
            "min_probability": rule.min_probability,
            "action": policy_action.text(rule.action),
        }
        for number, (rule, hits) in enumerate(zip(rules.rules, decider.matches, strict=True), 1)
    ]
    if is_json(ctx):
        print_json(ctx, rows)
    else:
        _print(rows)
    _warn_of_idle_rules(rules.rules, decider.matches)


def _print(rows: list[dict]) -> None:
    from etcpipe.outputs.table import Table

    table = Table([">rule", "classes", ">probability", "action"])
    lines = table.lines(
        [
            str(row["rule"]),
            ", ".join(row["classes"]),
            f">= {row['min_probability']:g}",
            ", ".join(f"{key} {value}" for key, value in row["action"].items()),
        ]
        for row in rows
    )
    click.echo("\n".join(lines))


def _warn_of_idle_rules(rules: tuple, matches: "np.ndarray") -> None:
    """Say which rules no verdict reaches, since earlier ones take all of their classes."""
    for i, rule in enumerate(rules):
        taken = matches[i] & False
        for earlier in range(i):
            if rules[earlier].min_probability <= rule.min_probability:
                taken |= matches[earlier]
        if not (matches[i] & ~taken).any():
            warn(f"{rule.place}: rule {i + 1} never holds: earlier rules take its classes")
