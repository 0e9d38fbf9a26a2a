"""etcpipe policy: look at a policy before it acts, let it act, and take that back."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli.common import Device, Group, Verb, is_json, option, print_json, warn

if TYPE_CHECKING:
    import numpy as np

    from etcpipe.policy.rules import Policy


@click.group(cls=Group)
def policy() -> None:
    """Let verdicts act on their flows: set priorities, marks or DSCP, or drop."""


@policy.command(cls=Verb)
@click.argument("file", type=click.Path())
@click.option("-m", "--model", type=click.Path(), help="Model file; default: the one that ships.")
@click.pass_context
def check(ctx: click.Context, file: str, model: str | None) -> None:
    """Check a policy FILE against a model's classes, and show what its rules mean.

    \b
    Example:
      etcpipe policy check policy.toml
    """
    from etcpipe import model as models
    from etcpipe.policy import rules as policies

    rules = policies.load(file)
    labels = models.load(model).labels
    rows = rules.describe(labels)
    if is_json(ctx):
        print_json(ctx, rows)
    else:
        click.echo("\n".join([*_rule_lines(rows), *_explained(rows)]))
    _warn_of_idle_rules(rules.rules, rules.decider(labels).matches)


@policy.command(cls=Verb)
@click.argument("file", type=click.Path())
@click.argument("device", type=Device())
@click.option("--dry-run", is_flag=True, help="Print the tc commands and do nothing.")
@click.pass_context
def apply(ctx: click.Context, file: str, device: str, dry_run: bool) -> None:
    """Apply the policy FILE to DEVICE: make its queues, and hand its rules to the attach.

    Queues are made if FILE has a [tree]. They replace the kernel's own queue or an earlier tree
    of etcpipe, never queues that somebody else made. `etcpipe policy undo` restores them.

    \b
    Examples:
      etcpipe policy apply policy.toml eth0 --dry-run
      etcpipe policy apply policy.toml eth0
    """
    from etcpipe.policy import apply as policy_apply
    from etcpipe.policy import rules as policies

    rules = _fitted(policies.load(file))
    namespace = option(ctx, "netns")
    if dry_run:
        commands = [shlex.join(one) for one in policy_apply.plan(device, namespace, rules)]
        if is_json(ctx):
            print_json(ctx, commands)
        else:
            click.echo("".join(f"{command}\n" for command in commands), nl=False)
        return
    done = policy_apply.apply(device, namespace, rules, str(Path(file).resolve()))
    print_json(ctx, done) if is_json(ctx) else click.echo(f"{device}: {_done_text(done)}")


def _fitted(rules: "Policy") -> "Policy":
    """Return a policy with queues that this kernel has, and say if they are others than asked."""
    from etcpipe.policy import apply as policy_apply

    fitted = policy_apply.fitted(rules)
    if rules.tree and fitted.tree and fitted.tree.leaf != rules.tree.leaf:
        warn(f"this kernel has no {rules.tree.leaf}: each class gets {fitted.tree.leaf} instead")
    return fitted


def _done_text(done: dict[str, Any]) -> str:
    queues = f"{done['classes']} classes made" if done["classes"] else "queues left alone"
    if done["attached"]:
        return f"{queues}, verdicts act by {done['file']}"
    return f"{queues}; no attach runs there: start one with --policy {done['file']}"


@policy.command(cls=Verb)
@click.argument("device", type=Device())
@click.pass_context
def undo(ctx: click.Context, device: str) -> None:
    """Undo what apply did on DEVICE: queues as before, rules as attach was started with.

    \b
    Example:
      etcpipe policy undo eth0
    """
    from etcpipe.policy import apply as policy_apply

    policy_apply.undo(device, option(ctx, "netns"))


@policy.command(cls=Verb)
@click.argument("device", type=Device())
@click.pass_context
def show(ctx: click.Context, device: str) -> None:
    """Show the rules in effect on DEVICE, and what passed its queues.

    \b
    Example:
      etcpipe policy show eth0
    """
    from etcpipe.policy import apply as policy_apply

    shown = policy_apply.show(device, option(ctx, "netns"))
    if is_json(ctx):
        print_json(ctx, shown)
        return
    blocks = [_rule_lines(shown["rules"])] if shown["rules"] else [["no verdict acts"]]
    if shown["tree"]:
        blocks.append(_tree_lines(shown["tree"]))
    click.echo("\n\n".join("\n".join(lines) for lines in blocks))


def _rule_lines(rows: list[dict]) -> list[str]:
    from etcpipe.outputs.table import Table

    table = Table([">rule", "classes", ">probability", "action"])
    return table.lines(
        [
            str(row["rule"]),
            ", ".join(row["classes"]),
            f">= {row['min_probability']:g}",
            ", ".join(f"{key} {value}" for key, value in row["action"].items()),
        ]
        for row in rows
    )


def _explained(rows: list[dict]) -> list[str]:
    """Say of each rule by what it goes, where its classes alone do not tell."""
    notes = []
    for row in rows:
        least = row["min_probability"]
        whose = (
            "its classes together have probability"
            if len(row["classes"]) > 1
            else "its class has probability"
        )
        if least:
            notes.append(f"if {whose} {least:g} or more, whatever the label")
        elif row["families"]:
            notes.append(
                f"by the label, also if it is only the family {', '.join(row['families'])}"
            )
        else:
            notes.append("by the label")
    return [
        "",
        *(f"rule {row['rule']} applies {one}" for row, one in zip(rows, notes, strict=True)),
    ]


def _tree_lines(tree: dict[str, Any]) -> list[str]:
    from etcpipe.outputs.table import Table
    from etcpipe.policy.tree import rate_text

    table = Table(["class", "id", ">rate", ">ceil", ">packets", ">bytes", ">drops", ">waiting"])
    return table.lines(
        [
            one["name"],
            one["id"],
            rate_text(one["rate"]),
            rate_text(one["ceil"]),
            *(f"{one[name]:,}" for name in ("packets", "bytes", "drops", "backlog_bytes")),
        ]
        for one in tree["classes"]
    )


def _warn_of_idle_rules(rules: tuple, matches: "np.ndarray") -> None:
    """Say which rules no verdict reaches, since earlier ones take all of their classes.

    By labels several rules can take a later one's classes; by probabilities only one that means
    all of them, and asks for no more.
    """
    for i, rule in enumerate(rules):
        least = rule.min_probability
        by_label = [k for k in range(i) if rules[k].min_probability == 0]
        is_idle = not least and not (matches[i] & ~matches[by_label].any(axis=0)).any()
        for k in range(i) if least else ():
            means_all = not (matches[i] & ~matches[k]).any()
            is_idle |= means_all and 0 < rules[k].min_probability <= least
        if is_idle:
            warn(f"{rule.place}: rule {i + 1} never applies: earlier rules take its classes")
